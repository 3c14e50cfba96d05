"""From the columns of all passes to records that train."""

import io
from collections import Counter

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finecap.engine.counters import NOTHING_TO_SAY
from finecap.engine.passes import pack
from finecap.engine.passes.pack import Options, as_record
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import summarise
from finecap.engine.running import one_shard as runner
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.features import FINECAP_FEATURES
from finecap.records import validate_record
from finecap.shards.plan import Shard
from finecap.tasks.conversation import record_to_turns

SHARD = Shard("00000-abc", "folder", ("a",))
WIDTH, HEIGHT = 60, 40


def picture(color):
    content = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), color).save(content, "PNG")
    return content.getvalue()


def live_row(**found):
    """A picture about which nothing is known but `found`."""
    unknown = dict.fromkeys(name.removesuffix("?") for name in recipe_from(BARE).step("pack").reads)
    ingested = {"id": "one", "image": picture("red"), "width": WIDTH, "height": HEIGHT, "source": "s", "license": "l"}
    return {**unknown, **ingested, "split": "train", "branch": "photo", **found}


def found_object(bbox, label="cat", score=0.5):
    return {"bbox": bbox, "label": label, "phrase": f"a {label}", "score": score}


def said(number, caption, text=None):
    return {"object": number, "caption": caption, "text": text, "captioner": "m"}


def found_text(text, level="line", bbox=(1, 1, 30, 9)):
    return {"bbox": list(bbox), "level": level, "text": text, "score": 0.75, "line": 0}


BARE = {"ingest": {"source": "s", "license": "l"}}
TWO = [found_object([0, 0, 20, 20]), found_object([10, 5, 60, 40], "dog", None)]


def test_the_columns_are_those_of_a_record_to_the_last_byte_of_their_description():
    assert pack.COLUMNS.equals(FINECAP_FEATURES.arrow_schema, check_metadata=True)


def test_kept_objects_become_regions_with_the_captions_that_were_made_for_them():
    row = live_row(objects=TWO, kept_objects=[1], local_captions=[said(1, "a dog at the right", "WUF")])
    (region,) = as_record(row, Counter())["regions"]
    assert region == {
        "bbox": [10, 5, 60, 40],
        "kind": "object",
        "label": "dog",
        "caption": "a dog at the right",
        "text": "WUF",
        "score": None,
        "verdict": None,
    }


def test_without_balancing_and_local_captions_every_object_is_a_region():
    regions = as_record(live_row(objects=TWO), Counter())["regions"]
    assert [(region["label"], region["caption"]) for region in regions] == [("cat", None), ("dog", None)]


@pytest.mark.parametrize(
    ("verdict", "caption"),
    [("verified", "a cat"), ("self-consistent", "a cat"), (None, "a cat"), ("refuted", None)],
)
def test_a_refuted_caption_is_left_out_and_its_box_stays_with_label_and_verdict(verdict, caption):
    looked = {"object": 0, "verdict": verdict, "iou": 0.2, "reason": "found elsewhere"}
    row = live_row(objects=TWO[:1], local_captions=[said(0, "a cat")], verdicts=[looked])
    counters = Counter()

    record = as_record(row, counters)

    validate_record(record)
    (region,) = record["regions"]
    assert (region["label"], region["caption"], region["verdict"]) == ("cat", caption, verdict)
    assert counters["local captions left out: found elsewhere"] == (caption is None)


@pytest.mark.parametrize(("branch", "kind"), [("photo", "text"), ("document", "document_text")])
def test_lines_and_words_are_text_of_a_photo_or_of_a_document(branch, kind):
    row = live_row(branch=branch, texts=[found_text("Big Sale"), found_text("Big", "word", (1, 1, 12, 9))])
    regions = as_record(row, Counter())["regions"]
    assert [(r["kind"], r["label"], r["text"], r["verdict"]) for r in regions] == [
        (kind, "line", "Big Sale", None),
        (kind, "word", "Big", None),
    ]


def test_the_verdict_on_a_line_is_that_of_its_second_reading_whatever_the_flags_say():
    texts = [{**found_text("Sale"), "line": 0}, {**found_text("Today"), "line": 1}]
    texts += [{**found_text("Today", "word"), "line": 1}, {**found_text("Open"), "line": 2}]
    read_back = [{"line": 0, "verdict": None}, {"line": 1, "verdict": "verified"}]
    flags = ['read back: m reads "Todai" for "Today" (0.80 alike)']

    record = as_record(live_row(texts=texts, read_back=read_back, flags=flags), Counter())

    assert [region["verdict"] for region in record["regions"]] == [None, "verified", None, None]
    assert record["provenance"]["flags"] == flags


edges = st.floats(-5, 70, width=32) | st.sampled_from([0.0, float(WIDTH), float(HEIGHT), float("nan")])


@given(st.lists(st.lists(edges, min_size=4, max_size=4), max_size=5))
def test_whatever_the_boxes_the_record_is_valid_and_each_box_is_kept_or_counted(boxes):
    counters = Counter()
    row = live_row(objects=[found_object(box) for box in boxes], texts=[found_text("x", bbox=box) for box in boxes])
    record = as_record(row, counters)
    validate_record(record)
    assert len(record["regions"]) + counters["boxes dropped: not inside the picture"] == 2 * len(boxes)


# What the passes before answer about three pictures: all there is to know, a caption alone, nothing.
FOUND = {
    "rich": {
        "caption": {"style": "dense", "text": "A cat and a dog.", "captioner": "m"},
        "objects": TWO,
        "local": [said(0, "a cat at the left"), said(1, "a dog at the right")],
        "texts": [found_text("Big Sale"), found_text("Today", bbox=(5, 20, 30, 30))],
    },
    "plain": {"caption": {"style": "dense", "text": "A wall.", "captioner": "n"}},
    "silent": {},
}


def ingest(rows, options, context):
    for row in rows:
        yield live_row(key=row["key"], id=row["key"], image=row["bytes"])


def sort_out(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "branch": "photo", "duplicate_of": None}


def recaption(rows, options, context):
    for row in rows:
        caption = FOUND[row["key"]].get("caption")
        text = caption and caption["text"]
        captions = {"captions": [caption] if caption else [], "global_caption": text}
        yield {"key": row["key"], **captions, "captioner": caption and caption["captioner"]}


def boxes(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "objects": FOUND[row["key"]].get("objects", []), "detector": "d 1"}


def local_captions(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "local_captions": FOUND[row["key"]].get("local", [])}


def ocr(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "texts": FOUND[row["key"]].get("texts", []), "ocr_engine": "o 1"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    items = [
        {"key": key, "bytes": picture(color), "url": None}
        for key, color in zip(FOUND, ("red", "green", "blue"), strict=True)
    ]
    monkeypatch.setattr(runner, "read_shard", lambda shard: iter(items))
    here = {name: {"function": f"{__name__}:{name}"} for name in ("recaption", "local_captions", "ocr")}
    recipe = recipe_from(
        {
            "ingest": {**BARE["ingest"], "function": f"{__name__}:ingest"},
            "filter": {"function": f"{__name__}:sort_out"},
            "dedup": {"function": f"{__name__}:sort_out"},
            "phrases": {},
            "boxes": {"function": f"{__name__}:boxes", "detector": "d"},
            **here,
        }
    )
    run = Run(recipe, Store(tmp_path), (SHARD,))
    for name in ("ingest", "filter"):
        run_shard(run, name, SHARD, {})
    monkeypatch.setattr(runner.Run, "reduced", lambda self, name: tmp_path / "none")
    for step in recipe.enabled()[2:]:
        run_shard(run, step.name, SHARD, {})
    return run


def test_each_image_ends_as_a_record_or_is_counted_as_one_that_says_nothing(run):
    output = run.output("pack", SHARD.name)
    stats = runner.read_stats(output)
    assert stats.rows == 3
    assert stats.counters[NOTHING_TO_SAY] == 1
    assert pq.read_table(output)["id"].to_pylist() == ["rich", "plain"]
    summary = summarise(run)
    assert (summary.images, summary.records, summary.rejected) == (3, 2, 1)


def test_the_packed_shard_is_read_and_trained_on_as_it_lies(run, tmp_path):
    path = str(run.output("pack", SHARD.name))
    records = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert records.features == FINECAP_FEATURES
    assert records[0]["image"].getpixel((0, 0)) == (255, 0, 0)

    tasks = {"global_caption": 1, "caption_to_box": 2, "box_to_caption": 2, "transcribe": 1, "text_to_box": 2}
    turns = record_to_turns(records[0], "0", lambda box, width, height: str(box), tasks)
    answers = {(turn.task, turn.answer) for turn in turns}
    assert ("global_caption", "A cat and a dog.") in answers
    assert ("transcribe", "Big Sale\nToday") in answers
    assert ("box_to_caption", "a dog at the right") in answers
    assert ("caption_to_box", "[0.0, 0.0, 20.0, 20.0]") in answers


def test_a_record_that_breaks_the_rules_is_a_bug_and_raises(tmp_path):
    context = runner.Context("s", recipe_from(BARE).settings, None, None, tmp_path, {})
    rows = iter([live_row(global_caption="A wall.", split="val")])
    with pytest.raises(ValueError, match="split is 'val'"):
        list(pack.run(rows, Options(), context))
