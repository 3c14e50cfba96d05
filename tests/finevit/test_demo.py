"""The demo: what it starts from really reads, what it prints, and what it refuses."""

import io

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
    header, line = demo.table({"doc": task}).splitlines()
    assert header.split() == ["task", "metric", "n", "score", "blind", "gain", "base"]
    assert line.split() == ["doc", "anls", "300", "0.750", "0.250", "0.500", "0.125"]


def test_outside_of_a_checkout_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "BASE", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nowhere.config\.json is missing"):
        demo.run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_stops_the_demo(tmp_path):
    with pytest.raises(RuntimeError, match="training ended with status"):
        demo.train(tmp_path / "no-corpus", tmp_path / "model")
