"""The script as a user runs it: refused with a clear word, and what a library's error shows."""

import re
import signal
import subprocess
import sys

import pytest

from finevit_training.vl_sft import main
from tests.support.launching import SMALLEST, launch
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--size", "nano", "--data", "x", "--lerning_rate", "1"], "lerning_rate"),
        (["--size", "nano", "--data", "x", "--max_step", "1"], "max_step"),
        (["--size", "nano"], "`data` is empty"),
        (["--data", "x"], "exactly one of"),
        (["--recipe", "no/such.yaml"], "does not exist"),
        (["--size", "nano", "--data", "x", "--mixture", "{transcribe: 1"], "mixture must be JSON"),
        (["--size", "nano", "--data", "no/such/corpus", "--max_steps", "1"], "no such file or folder"),
        (["--model", "no/such/model", "--data", "x"], "does not exist"),
        (["--size", "nano", "--data", "x", "--loss_type", "dft"], "no effect"),
    ],
)
def test_what_cannot_be_trained_ends_with_one_clear_line(flags, word, tmp_path):
    with pytest.raises(SystemExit, match=word):
        main([*flags, "--output_dir", str(tmp_path)])


def test_an_error_of_a_library_during_training_keeps_its_traceback(nano_corpus, tmp_path):
    flags = {**SMALLEST, "data": nano_corpus, "output_dir": tmp_path, "max_steps": 1}
    flags["adam_beta2"] = 2  # torch's AdamW is made when the training begins, and refuses it
    with pytest.raises(ValueError, match="Invalid beta parameter"):
        main([part for key, value in flags.items() for part in (f"--{key}", str(value))])


@pytest.mark.parametrize(
    ("saving", "said"),
    [
        (
            {"save_strategy": "steps", "save_steps": 1},
            r"interrupted; --resume_from_checkpoint last .* step \d",
        ),
        ({}, "interrupted; no checkpoint was saved"),
    ],
)
def test_ctrl_c_says_in_one_line_what_is_left(nano_corpus, tmp_path, saving, said):
    process = launch(launcher=False, data=nano_corpus, output_dir=tmp_path, max_steps=10_000, **saving)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2"):
            process.send_signal(signal.SIGINT)
            break
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(said, output)
    assert "Traceback" not in output


def test_the_script_in_a_checkout_is_the_module():
    script = ROOT / "training_scripts" / "vl_sft.py"
    output = subprocess.run([sys.executable, str(script), "--data", "x"], capture_output=True, text=True, check=False)
    assert output.returncode == 1
    assert "exactly one of" in output.stderr
    assert "Traceback" not in output.stderr
