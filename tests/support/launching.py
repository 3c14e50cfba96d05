"""Launching the real training as a user does."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SMALLEST = {
    "size": "nano",
    "vocab_size": 512,
    "text_config": '{"num_hidden_layers": 2}',
    "vision_config": '{"num_hidden_layers": 2}',
    "max_turns": 3,
    "per_device_train_batch_size": 4,
    "max_length": 512,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "bf16": "false",
    "seed": 7,
}
ENTRY = ("-m", "finevit_training.vl_sft")


def launch(
    *,
    launcher: bool = True,
    processes: int = 1,
    entry: tuple[str, ...] = ENTRY,
    smallest: Mapping[str, Any] = SMALLEST,
    **flags,
) -> subprocess.Popen:
    """`accelerate launch -m finevit_training.vl_sft` with the smallest model and further flags, on one CPU thread;
    without `launcher`, `python -m finevit_training.vl_sft`; several processes by torchrun, over gloo.

    Args:
        entry: another script, with `smallest` flags of its own.
    """
    command = [sys.executable]
    if processes > 1:  # on CPUs, which `accelerate launch` runs in several processes under MPI only
        command += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    elif launcher:
        command += ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
        command += ["--num_cpu_threads_per_process", "1"]
    command += entry
    command += [part for key, value in {**smallest, **flags}.items() for part in (f"--{key}", str(value))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "ACCELERATE_USE_CPU": "1",
    }
    # A session of its own, so that the launcher and the script it starts can be killed together.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_after_step(process: subprocess.Popen, step: int) -> None:
    """SIGKILL to a run and its launcher once it has logged a step."""
    for line in process.stdout or ():
        if line.startswith(f"step {step} "):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(process: subprocess.Popen) -> str:
    """The whole output of a run that must succeed."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def losses(out: Path) -> list[float]:
    """The loss of every step, as the finished run wrote it down."""
    return [entry["loss"] for entry in json.loads((out / "training_curve.json").read_text())]
