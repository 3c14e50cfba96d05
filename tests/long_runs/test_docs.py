"""The commands of the pages, run by a new user in an empty folder, with smaller numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.support.pages import blocks, commands
from tests.support.paths import NANO, ROOT
from tests.support.small_folders import save_qwen3, save_qwen_vl

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def run(folder: Path, *words: object) -> str:
    """Standard output of a command that must succeed."""
    command = [str(BIN / str(words[0])), *map(str, words[1:])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_corpus_training_evaluation_report_and_questions(folder):
    """docs/train.md and docs/evaluate.md, then README's two questions."""
    run(folder, "finevit", "corpus", "build", "--out", "outputs/corpus", "--size", 200, "--difficulty", "nano")
    launch = ["accelerate", "launch", "--num_processes", "1", ROOT / "training_scripts" / "vl_sft.py"]
    recipe = yaml.safe_load(run(folder, "finevit", "recipes", "show", "sft/nano_cpu"))
    del recipe["max_minutes"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(folder, *launch, "--recipe", "recipe.yaml", "--model", NANO, "--data", "outputs/corpus", "--max_steps", 3)
    evaluate = ["finevit", "eval", "doc", "chart", "--model", "outputs/nano", "--data", "outputs/corpus", "--limit", 4]
    run(folder, *evaluate, "--out", "outputs/eval")
    run(folder, *evaluate, "--out", "outputs/blind", "--blind")
    run(folder, "finevit", "report", "outputs/eval", "outputs/blind", "--out", "outputs/report.html")
    assert "<svg" in (folder / "outputs" / "report.html").read_text()
    Image.new("RGB", (112, 84), "white").save(folder / "picture.png")
    assert run(folder, "finevit", "ask", "outputs/nano", "picture.png", "What is the total?").strip()


def test_from_qwen_to_an_encoder_to_a_training(folder):
    """docs/train.md, "Start from Qwen2.5-VL", its own code and command, with two steps."""
    page = ROOT / "docs" / "train.md"
    save_qwen_vl(folder / "path" / "to" / "Qwen2.5-VL-3B-Instruct")
    save_qwen3(folder / "path" / "to" / "Qwen3-1.7B")
    run(folder, "finevit", "corpus", "build", "--out", "outputs/corpus", "--size", 40, "--difficulty", "nano")
    (code,) = (text for text in blocks(page, "python") if "from_qwen2_5_vl" in text)
    run(folder, "python", "-c", code)
    (command,) = (words for words in commands(page) if "--projector" in words)
    command[command.index("--max_steps") + 1] = "2"
    command[command.index("training_scripts/vl_sft.py")] = str(ROOT / "training_scripts" / "vl_sft.py")
    run(folder, *command, "--learning_rate", "1e-9")
    out = folder / "outputs" / "from-qwen"
    trained = load_file(out / "model.safetensors")
    projector = load_file(folder / "outputs" / "encoder" / "projector.safetensors")
    for name, tensor in projector.items():  # began with Qwen's merger, and hardly moved at that rate
        assert (trained[f"model.multi_modal_projector.{name}"] - tensor).abs().max() < 1e-6
    Image.new("RGB", (112, 84), "white").save(folder / "white.png")
    run(folder, "finevit", "ask", out, "white.png", "What is the total?", "--device", "cpu")


def test_a_price_before_anything_is_paid(folder):
    """docs/caption.md."""
    (folder / "photos").mkdir()
    Image.new("RGB", (600, 500), "white").save(folder / "photos" / "a.png")
    caption = ["finevit", "caption", "caption_full", "--in", "photos", "--out", "outputs/captions", "--dry-run"]
    assert "requests" in run(folder, *caption)
    assert not (folder / "outputs" / "captions").exists()
