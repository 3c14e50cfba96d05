"""The script as a user runs it: killed and resumed, refused with a clear word, and what it leaves behind."""

import os
import signal

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from finevit_training.recipe import parse_recipe
from tests.support.launching import finish, launch, losses
from tests.support.paths import ROOT

STEPS = 6


def kill_after_step(process, step):
    for line in process.stdout:
        if line.startswith(f"step {step} "):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_with_sigkill_and_resumed_has_bit_identical_losses(nano_corpus, tmp_path):
    flags = {"data": nano_corpus, "max_steps": STEPS, "save_strategy": "steps", "save_steps": 2}
    whole = tmp_path / "whole"
    finish(launch(**flags, output_dir=whole))
    assert len(losses(whole)) == STEPS

    broken = tmp_path / "broken"
    kill_after_step(launch(**flags, output_dir=broken), 5)
    assert not (broken / "config.json").exists()
    half_written = broken / "checkpoint-5"
    half_written.mkdir(exist_ok=True)
    (half_written / "trainer_state.json").write_text('{"global_st')
    finish(launch(**flags, output_dir=broken, resume_from_checkpoint="last"))

    assert losses(broken) == losses(whole)
    assert not half_written.exists()
    assert_is_a_whole_model_folder(whole, nano_corpus)


def assert_is_a_whole_model_folder(out, corpus):
    names = {path.name for path in out.iterdir()}
    for name in ("model.safetensors", "processor_config.json", "generation_config.json", "recipe.yaml", "README.md"):
        assert name in names
    assert (out / "training_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert not [name for name in names if "incomplete" in name]
    card = (out / "README.md").read_text()
    assert "$" not in card.split("## Training")[1].split("```")[0]
    recipe = parse_recipe(["--recipe", str(out / "recipe.yaml")])
    assert recipe.training.max_steps == STEPS
    assert recipe.data.data == [str(corpus)]

    processor = AutoProcessor.from_pretrained(out)
    model = AutoModelForImageTextToText.from_pretrained(out)
    picture = {"type": "image", "image": Image.new("RGB", (84, 84), "red")}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What color?"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--size", "nano", "--data", "x", "--lerning_rate", "1"], "lerning_rate"),
        (["--size", "nano", "--data", "x", "--max_step", "1"], "max_step"),
        (["--size", "nano"], "`data` is empty"),
        (["--data", "x"], "exactly one of"),
        (["--recipe", "no/such.yaml"], "does not exist"),
        (["--size", "nano", "--data", "x", "--mixture", "{transcribe: 1"], "mixture must be JSON"),
        (["--size", "nano", "--data", "no/such/corpus", "--max_steps", "1"], "finevit corpus build"),
        (["--model", "no/such/model", "--data", "x"], "no model folder"),
    ],
)
def test_what_cannot_be_trained_ends_with_one_clear_line(flags, word, monkeypatch, tmp_path):
    import importlib.util

    script = ROOT / "training_scripts" / "vl_sft.py"
    spec = importlib.util.spec_from_file_location("vl_sft", script)
    vl_sft = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vl_sft)
    monkeypatch.setattr("sys.argv", ["vl_sft.py", *flags, "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=word):
        vl_sft.main()
