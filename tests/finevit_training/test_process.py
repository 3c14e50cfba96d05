"""Threads of a process: the user's setting, else its share of the cores it may use."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from finevit_training.process import prepare_process

SAY = "from finevit_training.process import threads_for_training; print('threads', threads_for_training())"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def threads(command, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")}
    output = subprocess.run(
        [sys.executable, *command], env=clean | environment, capture_output=True, text=True, check=True
    ).stdout
    return int(output.split("threads ")[1])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, CORES),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"LOCAL_WORLD_SIZE": "2"}, max(1, CORES // 2)),
        ({"LOCAL_WORLD_SIZE": "1000"}, 1),
    ],
)
def test_the_environment_wins_over_the_share_of_the_cores(environment, expected):
    assert threads(["-c", SAY], **environment) == expected


@pytest.mark.parametrize("flags", ["--hub_token hf_secret", "--hub-token hf_secret", "--hub_token=hf_secret"])
def test_the_command_in_a_receipt_holds_no_token(flags):
    say = "from finecap.made_with import command_line; print(command_line())"
    command = [sys.executable, "-c", say, *flags.split(), "--seed", "7"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "hf_secret" not in said
    assert said.endswith("[token]' --seed 7\n")


def test_the_command_in_a_receipt_names_files_without_their_folders():
    say = "from finecap.made_with import command_line; print(command_line())"
    command = [sys.executable, "-c", say, "--data", "/home/me/corpus", "--out=/home/me/run", "outputs/x"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "/home/me" not in said
    assert said.endswith("--data corpus --out=run outputs/x\n")


def test_a_run_from_a_notebook_reports_to_nobody_either(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)  # as at the import of huggingface_hub
    prepare_process(cpu_threads=1)
    assert constants.HF_HUB_DISABLE_TELEMETRY is True
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]
