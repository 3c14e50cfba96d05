"""The demo: what it starts from really reads, what it prints, and what it refuses."""

import io
import os
import subprocess
import sys

import pytest
from lmms_eval.api.metrics import levenshtein_distance
from PIL import Image

from finecap.corpus.documents import document as docs
from finecap.tasks.wording import TRANSCRIBE
from finevit import ask, demo


@pytest.fixture(scope="module")
def base():
    return ask.load(str(demo.BASE), "cpu")


def held_out_pages(count):
    for index in range(count):
        record = docs.generate(index, 7, "test", "nano")
        lines = [region["text"] for region in record["regions"] if region["label"] == "line"]
        yield Image.open(io.BytesIO(record["image"]["bytes"])), "\n".join(lines)


def character_errors(base, pages):
    pages = list(pages)
    read = [ask.ask(base, picture, TRANSCRIBE) for picture, _ in pages]
    errors = sum(levenshtein_distance(text, truth) for text, (_, truth) in zip(read, pages, strict=True))
    return errors / sum(len(truth) for _, truth in pages)


def test_the_committed_checkpoint_reads_pages_it_has_never_seen(base):
    assert character_errors(base, held_out_pages(12)) < 0.25


def test_and_it_reads_nothing_off_grey_pages(base):
    grey = ((Image.new("RGB", picture.size, (128, 128, 128)), truth) for picture, truth in held_out_pages(12))
    assert character_errors(base, grey) > 0.6


def test_the_checkpoint_fits_into_the_repository():
    assert sum(path.stat().st_size for path in demo.BASE.iterdir()) < 16e6


def test_the_table_shows_score_blind_gain_and_base():
    task = {"metric": "anls", "n": 300, "score": 0.75, "blind_score": 0.25, "base_score": 0.125}
    header, line = demo.table({"doc": {**task, "interval": [0.7, 0.8]}}).splitlines()
    assert header.split() == ["task", "metric", "n", "score", "95", "%", "blind", "gain", "base"]
    assert line.split() == ["doc", "anls", "300", "0.750", "0.700-0.800", "0.250", "0.500", "0.125"]


def test_outside_of_a_checkout_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "BASE", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nowhere.config\.json is missing"):
        demo.run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"somebody's")
    with pytest.raises(ValueError, match="holds files that the demo did not write"):
        demo.run_demo(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [weights]


def test_the_demos_own_folder_and_an_empty_one_are_taken(tmp_path):
    for _ in range(2):
        demo.claim(tmp_path)
        (tmp_path / "results.json").write_text("{}")
    demo.claim(tmp_path / "new" / "folder")


def test_a_way_round_to_anothers_folder_is_no_way_in(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="did not write"):
        demo.claim(tmp_path / "new" / ".." / "other")


def test_the_demo_is_offline_before_any_library_reads_it(tmp_path):
    """Refused at once for its folder; what counts is what the libraries saw when they were imported."""
    (tmp_path / "other").touch()
    code = (
        f"from finevit_cli import main; assert main(['demo', '--out', {str(tmp_path)!r}]) == 2\n"
        "import datasets.config, huggingface_hub.constants as hub\n"
        "print(hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)"
    )
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_a_training_that_fails_stops_the_demo(tmp_path):
    with pytest.raises(RuntimeError, match="training ended with status"):
        demo.train(tmp_path / "no-corpus", tmp_path / "model")
