"""The script killed and resumed, by both signals, and the folder that it leaves behind."""

import os
import signal

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from finevit_training.recipe import parse_recipe
from tests.support.launching import finish, launch, losses

STEPS = 12


def end_after_step(process, step, how):
    """Sends the signal `how` to the run and its launcher, as a scheduler does, and returns what the run still says."""
    for line in process.stdout:
        if line.startswith(f"step {step} "):
            os.killpg(process.pid, how)
            break
    rest = process.stdout.read()
    process.wait()
    return rest


@pytest.mark.slow
def test_a_run_ended_by_sigterm_and_by_sigkill_and_resumed_has_bit_identical_losses(nano_corpus, tmp_path):
    flags = {"data": nano_corpus, "max_steps": STEPS}
    whole = tmp_path / "whole"
    finish(launch(**flags, output_dir=whole))
    assert len(losses(whole)) == STEPS

    broken = tmp_path / "broken"
    process = launch(launcher=False, **flags, output_dir=broken)
    assert "checkpoint" in end_after_step(process, 1, signal.SIGTERM)
    assert process.returncode == 143
    (saved,) = broken.glob("checkpoint-*")
    assert int(saved.name.removeprefix("checkpoint-")) < STEPS
    assert not (broken / "config.json").exists()

    again = {**flags, "output_dir": broken, "save_strategy": "steps", "save_steps": 1}
    end_after_step(launch(**again, resume_from_checkpoint="last"), 8, signal.SIGKILL)
    half_written = broken / f"checkpoint-{STEPS}"
    half_written.mkdir(exist_ok=True)
    (half_written / "trainer_state.json").write_text('{"global_st')
    finish(launch(**flags, output_dir=broken, resume_from_checkpoint="last"))

    assert losses(broken) == losses(whole)
    assert not half_written.exists()
    assert_is_a_whole_model_folder(whole, nano_corpus)


def assert_is_a_whole_model_folder(out, corpus):
    names = {path.name for path in out.iterdir()}
    for name in (
        "model.safetensors",
        "processor_config.json",
        "generation_config.json",
        "recipe.yaml",
        "receipt.json",
        "README.md",
    ):
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
