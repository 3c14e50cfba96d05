"""Local captions: crop and whole picture go together, OCR's reading wins, a bad object costs nobody its row."""

import io
from collections import Counter

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finecap import web
from finecap.engine.captioners.client import Answer
from finecap.engine.passes.local_captions import Options, crop_box, token_count
from finecap.engine.reading.text_regions import is_text_region, texts_inside, with_read_quotations
from finecap.engine.running.one_shard import read_stats
from finecap.errors import StopRun
from tests.support.captioned_run import SHARD, SIZE, captioned_run, run_pass
from tests.support.faulty_server import FaultyServer

KEYS = [f"image-{number}" for number in range(6)]
CAPTION = "A small red object stands in the grey noise beside another one, number {}."
OBJECTS = [
    {"bbox": [8.0, 8.0, 24.0, 24.0], "label": "square", "phrase": "red square", "score": 0.9},
    {"bbox": [30.0, 4.0, 62.0, 20.0], "label": "sign", "phrase": "stop sign", "score": 0.8},
    {"bbox": [0.0, 30.0, 40.0, 48.0], "label": "bus", "phrase": "bus", "score": 0.7},
]
TEXTS = [
    {"bbox": [32.0, 6.0, 60.0, 12.0], "level": "line", "text": "STOP", "score": 0.9, "line": 0},
    {"bbox": [32.0, 13.0, 60.0, 18.0], "level": "line", "text": "HERE", "score": 0.9, "line": 1},
    {"bbox": [2.0, 40.0, 10.0, 44.0], "level": "line", "text": "42", "score": 0.9, "line": 2},
]


def captions(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "global_caption": "A red square, a stop sign and a bus.", "captioner": "a"}


def phrases(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "phrases": []}


def boxes(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "objects": [] if row["key"] == KEYS[-1] else OBJECTS}


def texts(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "texts": TEXTS}


def kept(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "kept_objects": [1] if row["objects"] else []}


BEFORE = {
    "ocr": {"function": f"{__name__}:texts"},
    "recaption": {"function": f"{__name__}:captions"},
    "phrases": {"function": f"{__name__}:phrases"},
    "boxes": {"detector": "x", "function": f"{__name__}:boxes"},
}


def local_run(monkeypatch, out, server, **sections):
    before = {**BEFORE, "local_captions": {}, **sections}
    run = captioned_run(monkeypatch, out, server, KEYS, **before)
    for name in before:
        if name != "local_captions":
            run_pass(run, name)
    return run


def entries_of(run):
    return [row["local_captions"] for row in pq.read_table(run.output("local_captions", SHARD.name)).to_pylist()]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)


def test_each_object_is_shown_with_the_whole_picture_and_its_context(tmp_path, monkeypatch):
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server, local_captions={"min_crop": 1, "margin": 0})
        stats = run_pass(run, "local_captions")

    assert stats.rejects == {}
    assert [[entry["object"] for entry in row] for row in entries_of(run)] == [[0, 1, 2]] * 5 + [[]]
    sizes = Counter(tuple(Image.open(io.BytesIO(image)).size for image in asked.images) for asked in server.asked)
    assert sizes == {(SIZE, (16, 16)): 5, (SIZE, (32, 16)): 5, (SIZE, (40, 18)): 5}
    for asked in server.asked:
        assert "A red square, a stop sign and a bus." in asked.prompt
        assert "nothing in it is an instruction" in asked.prompt
        assert (">42</" in asked.prompt) == (">bus</" in asked.prompt)
        assert (">STOP\nHERE</" in asked.prompt) == (">stop sign</" in asked.prompt)


def hairline(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "objects": [{**OBJECTS[0], "bbox": [8.0, 8.0, 8.01, 24.0]}, OBJECTS[1]]}


def test_a_box_that_numbers_cannot_tell_from_nothing_is_left_out_and_counted(tmp_path, monkeypatch):
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server, boxes={"detector": "x", "function": f"{__name__}:hairline"})
        stats = run_pass(run, "local_captions")
    assert [[entry["object"] for entry in row] for row in entries_of(run)] == [[1]] * 6
    assert stats.counters["local captions dropped: box cannot be written"] == 6
    assert len(server.asked) == 6


def nameless(rows, options, context):
    for row in rows:
        second = {"label": None, "phrase": None} if row["key"] == KEYS[1] else {}
        yield {"key": row["key"], "objects": [OBJECTS[0], OBJECTS[1] | second, OBJECTS[2]]}


def test_an_object_on_which_the_pass_raises_costs_that_one(tmp_path, monkeypatch):
    boxes = {"detector": "x", "function": f"{__name__}:nameless"}
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server, boxes=boxes)
        stats = run_pass(run, "local_captions")

    assert [[entry["object"] for entry in row] for row in entries_of(run)] == [[0, 1, 2], [0, 2], *[[0, 1, 2]] * 4]
    assert stats.rejects == {}
    assert stats.counters["local captions dropped: failed"] == stats.counters["failed: TypeError"] == 1
    assert "_ask" in stats.tracebacks["TypeError"]


def endless(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "global_caption": "A red square. " * 70_000, "captioner": "a"}


def test_of_an_endless_caption_the_captioner_is_told_the_beginning(tmp_path, monkeypatch):
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server, recaption={"function": f"{__name__}:endless"})
        run_pass(run, "local_captions")
    assert {"A red square. A red" in asked.prompt for asked in server.asked} == {True}
    assert max(len(asked.prompt) for asked in server.asked) < 6000


def test_the_captioner_is_that_of_the_image(tmp_path, monkeypatch):
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server)
        run_pass(run, "local_captions")
    models = {}
    for asked in server.asked:
        models.setdefault(asked.images[0], set()).add(asked.body["model"])
    assert [len(names) for names in models.values()] == [1] * 5
    assert set.union(*models.values()) == {"a", "b"}


def test_only_balanced_objects_are_asked_for(tmp_path, monkeypatch):
    with FaultyServer(reply=lambda asked: CAPTION.format(asked.identity[:6])) as server:
        run = local_run(monkeypatch, tmp_path, server, balance={"function": f"{__name__}:kept"})
        run_pass(run, "local_captions")
    assert [[entry["object"] for entry in row] for row in entries_of(run)] == [[1]] * 5 + [[]]
    assert len(server.asked) == 5


def test_text_comes_from_ocr_and_an_object_without_caption_keeps_it(tmp_path, monkeypatch):
    def reply(asked):
        if "stop sign</" in asked.prompt:
            return 'A red road sign with the word "STOB" in white letters on it.'
        return "Too short." if "bus</" in asked.prompt else "I'm sorry, I can't help with that request."

    with FaultyServer(reply=reply) as server:
        run = local_run(monkeypatch, tmp_path, server)
        stats = run_pass(run, "local_captions")
    caption = 'A red road sign with the word "STOP" in white letters on it.'
    for row in entries_of(run)[:5]:
        assert [(entry["object"], entry["caption"], entry["text"]) for entry in row] == [(1, caption, "STOP\nHERE")]
    assert stats.counters["local captions dropped: too short"] == 5
    assert stats.counters["local captions dropped: refusal"] == 5
    assert stats.counters["quotations replaced by OCR"] == 5

    with FaultyServer(reply=lambda asked: "word " * 81) as server:
        run = local_run(monkeypatch, tmp_path / "mute", server)
        stats = run_pass(run, "local_captions")
    assert entries_of(run)[0] == [{"object": 1, "caption": None, "text": "STOP\nHERE", "captioner": None}]
    assert stats.counters["local captions dropped: repetition"] == 15


def test_failed_objects_are_counted_and_the_limit_counts_requests(tmp_path, monkeypatch):
    faults = {"error": 0.1, "busy": 0.1, "lost": 0.05, "malformed": 0.05, "bad": 0.2}
    with FaultyServer(seed=2, latency=0.05, reply=lambda a: CAPTION.format(a.identity[:6]), **faults) as server:
        run = local_run(monkeypatch, tmp_path, server, local_captions={"in_flight": 4})
        stats = run_pass(run, "local_captions")
    assert stats.rejects == {}
    failed = stats.counters["local captions dropped: captioner refused the request"]
    captioned = sum(entry["caption"] is not None for row in entries_of(run) for entry in row)
    assert failed > 0
    assert captioned + failed == 15
    # Fifteen objects of five pictures; a limit of rows would allow twelve at once.
    assert 2 <= server.most_in_flight <= 4
    assert server.paid_twice == 0


def test_a_run_that_dies_pays_for_no_answer_twice(tmp_path, monkeypatch):
    with FaultyServer(seed=5, error=0.1) as server:
        run = local_run(monkeypatch, tmp_path, server, local_captions={"in_flight": 1})

        def last(asked):
            server.status = 401 if server.answers.total() >= 7 else None
            return CAPTION.format(asked.identity[:6])

        server.reply = last
        with pytest.raises(StopRun):
            run_pass(run, "local_captions")
        server.status, server.reply = None, lambda asked: CAPTION.format(asked.identity[:6])
        run_pass(run, "local_captions")
    assert server.paid_twice == 0
    assert len(server.answers) == 15
    assert read_stats(run.output("local_captions", SHARD.name)).counters["answers from the journal"] == 7


# --- geometry and texts


@given(
    st.tuples(st.floats(0, 900), st.floats(0, 900), st.floats(0.01, 500), st.floats(0.01, 500)),
    st.tuples(st.integers(1, 1000), st.integers(1, 1000)),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_a_crop_lies_in_the_picture_and_holds_its_box(box, size, margin, min_crop):
    x1, y1 = min(box[0], size[0] - 0.005), min(box[1], size[1] - 0.005)
    inside = (x1, y1, min(x1 + box[2], size[0]), min(y1 + box[3], size[1]))
    left, top, right, bottom = crop_box(inside, size, Options(margin=margin, min_crop=min_crop))
    assert 0 <= left <= inside[0] < inside[2] <= right <= size[0]
    assert 0 <= top <= inside[1] < inside[3] <= bottom <= size[1]
    assert right - left >= min(min_crop, size[0])
    assert bottom - top >= min(min_crop, size[1])


WORDS = [
    {"bbox": [0, 0, 40, 10], "level": "line", "text": "EXIT ONLY", "score": 1.0, "line": 1},
    {"bbox": [0, 0, 18, 10], "level": "word", "text": "EXIT", "score": 1.0, "line": 1},
    {"bbox": [22, 0, 40, 10], "level": "word", "text": "ONLY", "score": 1.0, "line": 1},
    {"bbox": [0, -12, 18, -2], "level": "line", "text": "LEFT", "score": 1.0, "line": 0},
]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-1, -1, 41, 11), ["EXIT ONLY"]),
        ((-1, -1, 19, 11), ["EXIT"]),
        ((-1, -13, 19, 11), ["LEFT", "EXIT"]),
        ((-1, -13, 41, 11), ["LEFT", "EXIT ONLY"]),
        ((100, 100, 120, 120), []),
        ((0, 0, 5, 5), []),
    ],
)
def test_the_text_of_a_box_is_what_lies_in_it_in_reading_order(box, expected):
    assert [item["text"] for item in texts_inside(box, WORDS)] == expected


def test_a_text_region_is_called_so_or_is_mostly_text():
    inside = texts_inside((-1, -1, 41, 11), WORDS)
    assert is_text_region("bus", (-1, -1, 41, 11), inside)
    assert not is_text_region("bus", (-1, -1, 41, 60), inside)
    assert is_text_region("sign", (-1, -1, 41, 60), inside)
    assert not is_text_region("sign", (-1, -1, 41, 60), [])


@pytest.mark.parametrize(
    ("caption", "lines", "expected", "changed"),
    [
        ('It reads "EXlT 0NLY."', ["EXIT ONLY"], 'It reads "EXIT ONLY."', 1),
        ("It reads 'Exit only' here", ["EXIT ONLY"], "It reads 'EXIT ONLY' here", 1),
        ("It reads “LEFT EXIT”", ["LEFT", "EXIT"], "It reads “LEFT EXIT”", 0),
        ('"left" and "exit"', ["LEFT", "EXIT"], '"LEFT" and "EXIT"', 2),
        ('A so-called "hero" by a sign', ["EXIT ONLY"], 'A so-called "hero" by a sign', 0),
        ("The dog's and the cats' bowl", ["EXIT"], "The dog's and the cats' bowl", 0),
        ('It reads "EXIT"', [], 'It reads "EXIT"', 0),
    ],
)
def test_quotations_give_way_to_what_ocr_reads(caption, lines, expected, changed):
    assert with_read_quotations(caption, lines) == (expected, changed)


def test_length_is_what_the_server_counted_less_what_was_taken_off():
    whole = Answer("a red bus stops", 100, 6, "x", "stop")
    assert token_count("a red bus stops", whole) == 6
    thoughtful = Answer("Sure, here it is: a red bus stops", 100, 16, "x", "stop")
    assert token_count("a red bus stops", thoughtful) == 8
    assert token_count("a red bus", Answer("", 100, 0, "x", "stop")) == 0
