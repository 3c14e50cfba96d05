"""lmms-eval's own tasks, their YAML untouched, over small copies of the public data sets: offline, without a token."""

import io
import json
import re
import statistics
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import pytest
from lmms_eval.api.task import ConfigurableTask
from PIL import Image
from tenacity import wait_none

from finecap.boxes import format_box
from finevit_eval.questions.hub_tasks import PUBLISHED
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_eval.shown import kept_pictures, pictures_file
from finevit_eval.suite import EVALUATIONS
from tests.support.hub_folders import (
    BOXES,
    HEIGHT,
    PICKS,
    REDS,
    REFCOCO,
    WIDTH,
    refcoco_rows,
    tell,
    write_dataset,
    write_hub_folders,
)

TEXT_TASKS = ("docvqa_val", "infovqa_val", "chartqa", "textvqa_val", "ocrbench")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_hub_folders(tmp_path_factory.mktemp("hub"))


def samples(folder, name):
    return [json.loads(line) for line in (folder / f"samples_{name}.jsonl").read_text().splitlines()]


def own_score(name, sample):
    """A score of one sample, from what the papers of the data sets say."""
    if name not in TEXT_TASKS:
        return float(_iou(sample["truth"], sample["prediction"] or [0, 0, 0, 0]) >= 0.5)
    truth, said = sample["truth"], sample["prediction"]
    if name in ("docvqa_val", "infovqa_val"):
        nearness = max(1 - _edits(said.lower(), one.lower()) / max(len(said), len(one)) for one in truth)
        return nearness if nearness >= 0.5 else 0.0
    if name == "chartqa":
        return float(said.lower() == truth.lower())
    if name == "ocrbench":
        return float(any(one in said for one in truth))
    votes = [_vqa_words(one) == _vqa_words(said) for one in truth]
    return statistics.mean(min(1, (sum(votes) - vote) / 3) for vote in votes)


def _edits(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(corner + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _vqa_words(text):
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the")]


def _iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def half_right(picture, question):
    """Right in every other row; else near words, more than was asked, or a box that is cut."""
    said = tell(picture, question)
    if picture.getpixel((0, 0))[1] % 20:
        return said
    boxes = {format_box(BOXES[0], WIDTH, HEIGHT): [6, 8, 40, 30], format_box(BOXES[1], WIDTH, HEIGHT): [60, 8, 70, 12]}
    return format_box(boxes[said], WIDTH, HEIGHT) if said in boxes else {"amber": "ambre", "cobalt": "A cobalt."}[said]


def test_every_task_is_an_evaluation():
    assert [name for name, item in EVALUATIONS.items() if item.suite == "lmms_eval"] == list(PUBLISHED)


def test_scores_equal_an_independent_computation(answering, model_dir, hub, tmp_path):
    answering(half_right)
    assert huggingface_hub.get_token() is None, "the tasks ask for a token; folders need none"
    results = evaluate(model_dir, hub, tmp_path, ["lmms_eval"])
    for name in PUBLISHED:
        found = samples(tmp_path, name)
        scores = [own_score(name, sample) for sample in found]
        assert [sample["score"] for sample in found] == pytest.approx(scores), name
        assert results["tasks"][name]["score"] == pytest.approx(statistics.mean(scores)), name
        assert 0 < statistics.mean(scores) < 1, f"{name}: answers of one kind would show little"
    chart = results["tasks"]["chartqa"]
    assert chart["augmented"] > chart["human"]
    assert results["tasks"]["refcoco_bbox_rec_val"]["acc@0.9"] < results["tasks"]["refcoco_bbox_rec_val"]["score"]


def test_a_sample_tells_its_picture_its_row_and_what_was_asked(answering, model_dir, hub, tmp_path):
    answering(tell)
    evaluate(model_dir, hub, tmp_path, ["textvqa_val", "screenspot_rec_test", "refcoco_bbox_rec_val"])
    of_text, of_screen, of_box = (
        samples(tmp_path, name) for name in ("textvqa_val", "screenspot_rec_test", "refcoco_bbox_rec_val")
    )
    assert [sample["row"] for sample in of_text] == list(range(6))
    assert len({sample["group"] for sample in of_text}) == 6
    assert of_text[0]["question"] == "what is the brand of this camera?"
    assert of_text[0]["truth"] == ["amber"] * 8 + ["The AMBER.", "none"]
    assert of_screen[0]["question"] == "open the menu"
    assert of_screen[0]["truth"] == pytest.approx(BOXES[0])
    assert of_box[0]["question"] == "the stone"
    assert of_box[3]["prediction"] == pytest.approx(BOXES[1], abs=0.1)
    assert of_box[5]["group"] == of_box[6]["group"], "two expressions for one picture"
    assert len({sample["id"] for sample in of_box}) == len(of_box) == 7
    kept = kept_pictures(pictures_file(tmp_path, "refcoco_bbox_rec_val"))
    reds = [Image.open(io.BytesIO(kept[sample["group"]].data)).getpixel((0, 0))[0] for sample in of_box]
    assert reds == [REDS[pick] for pick in (*PICKS, PICKS[-1])]


def test_a_second_run_gives_the_same_digits(answering, model_dir, hub, tmp_path):
    """lmms-eval's `ocrbench` adds to a counter of its module, and divides by 1,000 whatever was asked."""
    answering(half_right)
    names = ["ocrbench", "docvqa_val", "refcoco_bbox_rec_val"]
    first, second = (evaluate(model_dir, hub, tmp_path / part, names, Settings(limit=4)) for part in ("a", "b"))
    assert first["tasks"] == second["tasks"]
    assert 0 < first["tasks"]["ocrbench"]["score"] < 1
    for name in names:
        assert samples(tmp_path / "a", name) == samples(tmp_path / "b", name)


def test_a_limit_draws_by_seed_and_says_which_rows(answering, model_dir, hub, tmp_path):
    answering(tell)
    runs = [evaluate(model_dir, hub, tmp_path, ["docvqa_val"], Settings(limit=3, seed=seed)) for seed in (0, 0, 1)]
    prints = [run["receipt"]["tasks"]["docvqa_val"]["fingerprint"] for run in runs]
    assert prints[0] == prints[1] != prints[2]
    truths = pq.read_table(next((hub / "lmms-lab-encoder/DocVQA/DocVQA").glob("*.parquet")), columns=["answers"])
    for sample in samples(tmp_path, "docvqa_val"):
        assert sample["truth"] == truths["answers"][sample["row"]].as_py()


def test_what_lmms_eval_writes_goes_below_out(answering, model_dir, hub, tmp_path, monkeypatch):
    answering(tell)
    before = sorted(hub.rglob("*"))
    monkeypatch.chdir(tmp_path)
    evaluate(model_dir, hub, Path("out"), ["ocrbench", "textvqa_val"], Settings(limit=2))
    assert {path.name for path in Path("out/lmms_eval").iterdir()} == {"results", "submissions"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(hub.rglob("*")) == before


def test_data_that_are_not_there_are_named_with_the_place_for_them(model_dir, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(ConfigurableTask.download.retry, "wait", wait_none())
    with pytest.raises(ValueError, match=r"The data of chartqa are neither in .*README.md and parquet files"):
        evaluate(model_dir, tmp_path, tmp_path / "out", ["chartqa"])


def test_a_truth_without_area_is_refused(model_dir, hub, tmp_path):
    """lmms-eval would divide by zero where a model finds no box."""
    empty = refcoco_rows()
    empty[4]["bbox"] = [10.0, 10.0, 0.0, 20.0]
    write_dataset(tmp_path / "lmms-lab-encoder/RefCOCO", {"default": {"val": (empty, REFCOCO)}})
    with pytest.raises(ValueError, match=r"refcoco_bbox_rec_val: row 4 has the empty box"):
        evaluate(model_dir, tmp_path, tmp_path / "out", ["refcoco_bbox_rec_val"])


def test_a_split_is_part_of_the_name(model_dir, hub, tmp_path):
    with pytest.raises(ValueError, match="chartqa has a split of its own; leave --split out"):
        evaluate(model_dir, hub, tmp_path, ["chartqa"], Settings(split="validation"))
