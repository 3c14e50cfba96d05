"""Boxes pass: from what a detector finds to the objects of a record."""

import io
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finecap.boxes import box_ious
from finecap.engine.contract import Context
from finecap.engine.detectors.detector import Detection, DetectionFailed, jpeg
from finecap.engine.passes import boxes
from finecap.engine.passes.boxes import Options, select
from finecap.engine.recipe import recipe_from
from finecap.engine.running.journal import Journal
from finecap.records import check_box

WIDTH, HEIGHT = 200, 120
PHRASES = [
    {"text": "a red car", "label": "car"},
    {"text": "the car", "label": "car"},
    {"text": "a tall tree", "label": "tree"},
]
CAR, CAR_AGAIN, TREE = (10.0, 20.0, 110.0, 60.0), (12.0, 20.0, 110.0, 60.0), (11.0, 20.0, 110.0, 60.0)


class Oracle:
    """Knows the boxes of each phrase; fails on pictures that are black at the corner."""

    name = "oracle 1"

    def __init__(self, truth):
        self.truth, self.seen = truth, []

    async def detect(self, image, phrases):
        self.seen.append((image.mode, image.size, list(phrases)))
        if image.getpixel((0, 0)) == (0, 0, 0):
            raise DetectionFailed("detector failed: out of memory")
        return [
            Detection(bbox, index, score)
            for index, phrase in enumerate(phrases)
            for bbox, score in self.truth.get(phrase, [])
        ]


def picture(color=(255, 255, 255)):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), color).save(buffer, "PNG")
    return buffer.getvalue()


def row(key, branch="photo", phrases=PHRASES, color=(255, 255, 255)):
    shape = {"width": WIDTH, "height": HEIGHT}
    return {"key": key, "image": picture(color), **shape, "branch": branch, "phrases": phrases}


def recipe(**section):
    captioner = {"name": "q", "model": "m", "endpoints": ["http://localhost:1/v1"]}
    content = {"ingest": {"source": "s", "license": "l"}, "captioners": [captioner], "recaption": {}, "phrases": {}}
    return recipe_from(content | {"boxes": section})


@pytest.fixture
def context(tmp_path):
    detector = Oracle({"a red car": [(CAR, 0.5)], "the car": [(CAR_AGAIN, 0.9)], "a tall tree": [(TREE, 0.4)]})
    journal = Journal(tmp_path / "journal")
    return Context("00000", recipe(detector="oracle").settings, journal, None, tmp_path, {"detector": detector})


def run(rows, context, **options):
    results = list(boxes.run(iter(rows), Options(detector="oracle", **options), context))
    context.models["event loop"].close()
    return results


def test_objects_carry_label_phrase_and_score_and_only_a_box_of_their_own_label_covers_them(context):
    (result,) = run([row("a")], context)

    assert result["detector"] == "oracle 1"
    assert result["objects"] == [
        {"bbox": list(CAR_AGAIN), "label": "car", "phrase": "the car", "score": 0.9},
        {"bbox": list(TREE), "label": "tree", "phrase": "a tall tree", "score": 0.4},
    ]
    assert context.counters == {"boxes": 2, "boxes dropped: overlap": 1}
    assert context.models["detector"].seen == [("RGB", (WIDTH, HEIGHT), ["a red car", "the car", "a tall tree"])]
    assert pa.Table.from_pylist([result], schema=boxes.COLUMNS)["objects"].to_pylist()[0][0]["label"] == "car"


def test_documents_and_captions_without_phrases_are_not_looked_at(context):
    rows = [row("document", branch="document"), row("none", phrases=None), row("empty", phrases=[])]
    results = run(rows, context)
    assert [(item["objects"], item["detector"], item["reject"]) for item in results] == [([], None, None)] * 3
    assert context.models["detector"].seen == []


def test_documents_are_looked_at_when_the_recipe_says_so(context):
    (result,) = run([row("document", branch="document")], context, documents=True)
    assert len(result["objects"]) == 2


def test_a_picture_that_the_detector_fails_on_is_rejected_and_the_others_go_on(context):
    results = run([row("a"), row("black", color=(0, 0, 0)), row("c")], context)
    assert [item["reject"] for item in results] == [None, "detector failed: out of memory", None]
    assert [len(item["objects"] or []) for item in results] == [2, 0, 2]


def test_a_picture_that_cannot_be_read_is_rejected(context):
    (result,) = run([row("a") | {"image": picture()[:-40]}], context)
    assert result["reject"].startswith(("truncated: ", "corrupt: "))


@pytest.mark.parametrize(
    ("bbox", "score", "counter"),
    [
        (CAR, 0.29, "low score"),
        (CAR, float("nan"), "low score"),
        ((-50, -50, -1, 40), 0.9, "empty"),
        ((195, 10, 195.5, 40), 0.9, "empty"),
        ((50, 20, 40, 60), 0.9, "empty"),
        ((float("nan"), 20, 40, 60), 0.9, "empty"),
    ],
)
def test_what_is_dropped_is_counted(bbox, score, counter):
    counters = Counter()
    assert select([Detection(bbox, 0, score)], PHRASES, (WIDTH, HEIGHT), Options(detector="x"), counters) == []
    assert counters[f"boxes dropped: {counter}"] == 1


def test_boxes_are_cut_at_the_right_sides_of_the_picture():
    (found,) = select(
        [Detection((-5, -6, 300, 301), 2, 0.3)], PHRASES, (WIDTH, HEIGHT), Options(detector="x"), Counter()
    )
    assert found["bbox"] == [0, 0, WIDTH, HEIGHT]


NUMBER = st.floats(-50, 250, allow_nan=False, width=32)
FOUND = st.builds(
    Detection,
    bbox=st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    phrase=st.integers(0, 2),
    score=st.one_of(st.none(), st.floats(0, 1)),
)


@given(st.lists(FOUND, max_size=25))
def test_every_object_fits_a_record_and_every_detection_is_counted_once(found):
    counters = Counter()
    objects = select(found, PHRASES, (WIDTH, HEIGHT), Options(detector="x"), counters)

    assert counters.total() == len(found)
    assert counters["boxes"] == len(objects)
    for item in objects:
        check_box(item["bbox"], WIDTH, HEIGHT, "object")
        assert item["score"] is None or item["score"] >= 0.3
    scores = [item["score"] or 0 for item in objects]
    assert scores == sorted(scores, reverse=True)
    for index, item in enumerate(objects):
        rivals = [other["bbox"] for other in objects[:index] if other["label"] == item["label"]]
        assert not rivals or max(box_ious(item["bbox"], rivals)) <= 0.7


@pytest.mark.parametrize("section", [{}, {"detector": "a", "url": "b"}, {"url": "b", "captioner": "c"}])
def test_a_recipe_names_one_detector(section):
    with pytest.raises(ValueError, match=r"name one of detector .*, url .* and captioner"):
        recipe(**section)


def test_a_served_detector_may_move_and_a_captioner_that_grounds_decides_the_output():
    assert recipe(url="http://a").pass_key("boxes") == recipe(url="http://b").pass_key("boxes")
    assert recipe(detector="a").pass_key("boxes") != recipe(detector="b").pass_key("boxes")

    with pytest.raises(ValueError, match="holds a user name or password") as caught:
        Options(url="http://me:hunter2@gpu1:9000")
    assert "hunter2" not in caught.value.errors()[0]["msg"]
    with pytest.raises(ValueError, match=r"boxes.url 'gpu1:9000' is no http\(s\) URL"):
        Options(url="gpu1:9000")
    assert Options(captioner="q").CAPTIONS
    assert not Options(url="http://a").CAPTIONS


class Sends:
    """Like detectors elsewhere: the picture goes there as a JPEG."""

    name = "sends"

    async def detect(self, image, phrases):
        jpeg(image)
        return []


def test_a_document_too_long_for_a_jpeg_is_rejected_and_the_others_go_on(context):
    context.models["detector"] = Sends()
    long = io.BytesIO()
    Image.new("L", (66_000, 10)).save(long, "PNG")
    rows = [row("a"), row("long", branch="document") | {"image": long.getvalue(), "width": 66_000, "height": 10}]
    found = run(rows, context, documents=True)
    assert [one["reject"] for one in found] == [
        None,
        "too long for a detector: 66000x10 pixels, a JPEG has 65500",
    ]


def test_a_detector_that_raises_on_one_picture_costs_that_one(context):
    class Breaks(Oracle):
        async def detect(self, image, phrases):
            if image.getpixel((0, 0)) == (0, 0, 0):
                return [Detection((1, 2, 3, 4), 99, 0.9)]
            return await super().detect(image, phrases)

    context.models["detector"] = Breaks({})
    found = run([row("a"), row("black", color=(0, 0, 0)), row("c")], context)
    assert [one["reject"] for one in found] == [None, "failed: IndexError: list index out of range", None]


def test_a_score_that_is_no_number_is_a_low_one():
    counters = Counter()
    nan = Detection(CAR, 0, float("nan"))
    assert select([nan], PHRASES, (WIDTH, HEIGHT), Options(detector="x"), counters) == []
    assert counters == {"boxes dropped: low score": 1, "boxes dropped: overlap": 0, "boxes": 0}
