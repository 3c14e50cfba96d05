"""The script as a user runs it: refused with a clear word, and what a library's error shows."""

import importlib
import json
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

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


def test_what_a_recipe_alone_refuses_is_refused_before_what_trains_is_imported(tmp_path):
    """TRL's trainer brings every tracker that is installed: a third of all that is imported."""
    refused = {
        "lerning_rate": "--size nano --data x --lerning_rate 1",
        "no/such/corpus/x": "--size nano --data no/such/corpus/x --max_steps 1",
        "no/such/model": "--model no/such/model --data x",
        "no whole checkpoint": "--size nano --data x --resume_from_checkpoint last",
        "usage:": "--help",
    }
    code = f"""
import sys
from finevit_training.vl_sft import main
for flags in {list(refused.values())}:
    try:
        main([*flags.split(), "--output_dir", {str(tmp_path)!r}])
    except SystemExit as stop:
        print(stop)
assert "finevit_training.stages.sft.stage" in sys.modules
assert not {{"trl.trainer.sft_trainer", "wandb", "datasets"}} & set(sys.modules)
import finevit_training.stages.sft.trainer
assert "trl.trainer.sft_trainer" in sys.modules
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    assert all(word in output.stdout for word in refused), output.stdout


def test_data_of_which_nothing_can_be_trained_says_so_in_one_line_and_lists_the_rows(tmp_path):
    write_captioned_folder(tmp_path / "photos", 3)
    flags = {**SMALLEST, "data": tmp_path / "photos", "output_dir": tmp_path / "out", "max_steps": 1}
    flags["mixture"] = '{"transcribe": 1}'
    with pytest.raises(SystemExit, match=r"3 x nothing can be asked .*it has global_caption.*skipped_records\.json"):
        main(flags_of(flags))
    listed = json.loads((tmp_path / "out/skipped_records.json").read_text())
    assert sorted(listed) == ["0.png", "1.png", "2.png"]


def test_rows_that_were_left_out_are_counted_at_the_end(tmp_path, capsys):
    write_captioned_folder(tmp_path / "photos", 4)
    for name in ("0.png", "2.png"):
        (tmp_path / "photos" / name).write_bytes(b"broken")
    flags = {**SMALLEST, "data": tmp_path / "photos", "output_dir": tmp_path / "out", "max_steps": 1}
    assert main(flags_of(flags)) == 0
    printed = capsys.readouterr().out
    where = tmp_path / "out/skipped_records.json"
    said = rf"\n2 rows left out, because something is wrong with them \(2 x [a-z ]+\): {re.escape(str(where))}\n"
    assert len(re.findall(said, printed)) == 1
    assert " skipped 2\n" in printed
    assert "passed over" not in printed


def test_rows_that_the_mixture_does_not_ask_about_are_no_bad_ones(nano_corpus, tmp_path, capsys):
    flags = {**SMALLEST, "data": nano_corpus, "output_dir": tmp_path / "out", "max_steps": 1}
    flags["mixture"] = '{"qa": 0, "global_caption": 1}'  # easy-vqa's pictures have questions alone
    assert main(flags_of(flags)) == 0
    printed = capsys.readouterr().out
    listed = json.loads((tmp_path / "out/skipped_records.json").read_text())
    assert f"\n{len(listed)} rows passed over, in whole or in part, because the recipe asks nothing" in printed
    assert f"do not fit it ({len(listed)} x nothing can be asked about it" in printed
    assert "skipped" not in printed.replace("skipped_records.json", "")
    assert "left out" not in printed
    assert all(reason.startswith("passed over: nothing can be asked about it") for reason in listed.values())


def test_captions_are_trained_on_without_a_word_about_a_mixture(tmp_path, capsys):
    write_captioned_folder(tmp_path / "photos", 3)
    flags = {**SMALLEST, "data": tmp_path / "photos", "output_dir": tmp_path / "out", "max_steps": 1}
    assert main(flags_of(flags)) == 0
    assert json.loads((tmp_path / "out/skipped_records.json").read_text()) == {}
    assert "left out" not in capsys.readouterr().out


def write_captioned_folder(folder, count):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (56, 56), "blue").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("A blue square.")


def flags_of(values):
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def test_an_error_of_a_library_during_training_keeps_its_traceback(nano_corpus, tmp_path):
    flags = {**SMALLEST, "data": nano_corpus, "output_dir": tmp_path, "max_steps": 1}
    flags["lr_scheduler_type"] = "cosine_with_min_lr"  # made when the training begins; lacks min_lr
    with pytest.raises(ValueError, match="min_lr"):
        main(flags_of(flags))


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


@pytest.mark.parametrize("stage", ["mim", "contrastive", "align", "vl_sft"])
def test_every_stage_lists_its_flags(stage, capsys):
    """A bare percent sign in a help text is a format to argparse."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"finevit_training.{stage}").main(["--help"])
    assert not stop.value.code
    assert "--output_dir" in capsys.readouterr().out
