"""Boxes to text and back."""

import json
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from finecap.boxes import FINEVIT, NOTATIONS, Notation, box_numbers, clip_box, format_box, parse_boxes

SIDES = st.integers(1, 20_000)
STEP_RANGE = st.integers(0, 1000)
GRIDS = st.integers(1, 5000).map(Notation) | st.just(NOTATIONS["pixels"])


@st.composite
def pictures_with_boxes(draw):
    width, height = draw(SIDES), draw(SIDES)
    edge = st.floats(0, 1, allow_nan=False)
    (x1, x2), (y1, y2) = (sorted(draw(st.tuples(edge, edge))) for _ in range(2))
    return width, height, (x1 * width, y1 * height, x2 * width, y2 * height)


@st.composite
def step_boxes(draw):
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(STEP_RANGE, min_size=2, max_size=2, unique=True))) for _ in range(2))
    return x1, y1, x2, y2


def _is_writable(box, width, height, notation=FINEVIT) -> bool:
    """Boxes up to a step wide may fall between two steps or onto one."""
    try:
        format_box(box, width, height, notation)
    except ValueError:
        return False
    return True


class TestWriting:
    def test_canonical_form(self):
        assert format_box((64, 48, 320, 480), 640, 480) == "<|box_start|>(100,100),(500,1000)<|box_end|>"

    @given(pictures_with_boxes())
    @example((640, 480, (0.0, 0.0, 640.0, 480.0)))
    def test_what_is_written_is_read_back_within_half_a_step(self, case):
        width, height, box = case
        assume(box[0] < box[2] and box[1] < box[3])
        if min((box[2] - box[0]) / width, (box[3] - box[1]) / height) <= 1 / 1000:
            assume(_is_writable(box, width, height))
        text = format_box(box, width, height)
        boxes, skipped = parse_boxes(text, width, height)
        assert len(boxes) == 1
        assert not skipped
        for side, read, size in zip(box, boxes[0].box, (width, height, width, height), strict=True):
            assert abs(side - read) <= size / 2000 * (1 + 1e-9)

    @given(step_boxes(), SIDES, SIDES)
    def test_reading_and_writing_again_gives_the_same_text(self, steps, width, height):
        text = "<|box_start|>({},{}),({},{})<|box_end|>".format(*steps)
        assert format_box(parse_boxes(text, width, height).boxes[0].box, width, height) == text

    def test_swapped_axes_do_not_survive(self):
        """The control of the round trips: width and height are not interchangeable."""
        box = (10.0, 20.0, 60.0, 40.0)
        assert parse_boxes(format_box(box, 100, 50), 50, 100).boxes[0].box != pytest.approx(box)

    @pytest.mark.parametrize(
        ("box", "reason"),
        [
            ((10, 10, 10, 20), "empty"),
            ((20, 10, 10, 20), "empty"),
            ((-1, 0, 10, 10), "leaves the 100x50 picture"),
            ((0, 0, 10, 51), "leaves the 100x50 picture"),
            ((0, 0, 10), "not four finite numbers"),
            ((0, 0, float("nan"), 10), "not four finite numbers"),
            ((0, 0, 0.01, 10), "too thin"),
        ],
    )
    def test_what_is_no_box_in_the_picture_is_refused(self, box, reason):
        with pytest.raises(ValueError, match=reason):
            format_box(box, 100, 50)

    def test_a_picture_without_area_is_refused(self):
        with pytest.raises(ValueError, match="has no area"):
            format_box((0, 0, 1, 1), 0, 50)
        with pytest.raises(ValueError, match="has no area"):
            parse_boxes("", 50, 0)


PIXELS = (64.0, 96.0, 192.0, 240.0)  # of 640x480: 100, 200, 300, 500 steps
VARIANTS = {
    "special tokens": ("<|box_start|>(100,200),(300,500)<|box_end|>", None),
    "special tokens stripped": ("(100,200),(300,500)", None),
    "spaced": ("<|box_start|> ( 100, 200 ) , ( 300, 500 ) <|box_end|>", None),
    "named by an object reference": (
        "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(100,200),(300,500)<|box_end|>",
        "the cat",
    ),
    "list in special tokens": ("<|box_start|>[100, 200, 300, 500]<|box_end|>", None),
    "JSON object": ('{"bbox_2d": [100, 200, 300, 500], "label": "the \\"cat\\""}', 'the "cat"'),
    "JSON with the label first": ('{"label": "cat", "bbox_2d": [100, 200, 300, 500]}', "cat"),
    "fenced JSON list": ('```json\n[\n\t{"bbox_2d": [100, 200, 300, 500], "label": "cat"}\n]\n```', "cat"),
    "JSON cut off": ('[{"bbox_2d": [100, 200, 300, 500], "label": "ca', None),
    "plain bbox key": ('{"bbox": [100, 200, 300, 500]}', None),
    "bare list": ("The cat is at [100, 200, 300, 500].", None),
    "bare tuple": ("(100, 200, 300, 500)", None),
    "decimals in 0-1000": ("[100.0, 200.0, 300.0, 500.0]", None),
    "fractions in a list": ("[0.1, 0.2, 0.3, 0.5]", None),
    "fractions in a tuple": ("(.1, 0.2, 0.30, 0.5)", None),
    "nested list": ("<box>[[100, 200, 300, 500]]</box>", None),
}


class TestReading:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_variant(self, name):
        text, label = VARIANTS[name]
        boxes, skipped = parse_boxes(text, 640, 480)
        assert [box.label for box in boxes] == [label]
        assert boxes[0].box == pytest.approx(PIXELS)
        assert skipped == []

    def test_several_boxes_keep_their_order_and_names(self):
        text = json.dumps([{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}])
        text += " <|box_start|>(10,20),(30,40)<|box_end|>[50,60,70,80]"
        boxes, skipped = parse_boxes(text, 1000, 1000)
        assert [box.label for box in boxes] == ["a", "b", None, None]
        assert [box.box[0] for box in boxes] == [1, 5, 10, 50]
        assert skipped == []

    def test_small_integers_are_steps_and_not_fractions(self):
        assert parse_boxes("[0, 0, 1, 1]", 1000, 1000).boxes[0].box == (0, 0, 1, 1)
        assert parse_boxes("[0, 0, 1.0, 1]", 1000, 1000).boxes[0].box == (0, 0, 1000, 1000)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[300, 200, 100, 500]", "empty"),
            ("[100, 200, 100, 500]", "empty"),
            ("[100, 200, 300, 1001]", "outside"),
            ("[-1, 200, 300, 500]", "outside"),
            ("<|box_start|>(100,200),(300", "no four numbers"),
            ("<|box_start|><|box_end|>", "no four numbers"),
            ('{"bbox_2d": [1, 2, 3]}', "no four numbers"),
            ('{"bbox_2d": [1, 2, 3, 4, 5]}', "no four numbers"),
            ('{"bbox_2d": null}', "no four numbers"),
            ('[{"bbox_2d": [1, 2', "no four numbers"),
            ("[" + "9" * 5000 + ", 1, 2, 3]", "outside"),
        ],
    )
    def test_what_is_no_box_is_skipped_with_a_reason(self, text, reason):
        good = "<|box_start|>(100,200),(300,500)<|box_end|>"
        boxes, skipped = parse_boxes(f"{good} {text}", 640, 480)
        assert len(boxes) == 1
        assert len(skipped) == 1
        assert reason in skipped[0].reason

    @pytest.mark.parametrize("text", ["", "no box", "[1, 2, 3]", "f(1, 2)", '{"point_2d": [1, 2]}', "[1, 2, 3, 4, 5]"])
    def test_what_does_not_claim_to_be_a_box_is_not_reported(self, text):
        assert parse_boxes(text, 640, 480) == ([], [])

    @given(st.text(alphabet='<|box_startend>()[]{},.0123456789 "bbox_2d:-\n', max_size=60), SIDES, SIDES)
    def test_any_text_gives_only_boxes_within_the_picture(self, text, width, height):
        for (x1, y1, x2, y2), _ in parse_boxes(text, width, height).boxes:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height


LONG = 2**16
HOSTILE = {
    "an open quotation mark before many boxes": '{"label": "' + "[1,2,3,4]" * (LONG // 9),
    "backslashes in a label that does not end": '{"label": "' + "\\\\" * (LONG // 4) + "[1,2,3,4]" * (LONG // 18),
    "many announcements before many boxes": '"bbox":' * (LONG // 14) + "[1,2,3,4]" * (LONG // 18),
    "one brace before many boxes": "{" + "[1,2,3,4]" * (LONG // 9),
    "digits without end": "[" + "9" * LONG,
    "spaces without end": "[1," + " " * LONG,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_answer_takes_time_in_proportion_to_its_length(name):
    """The longest that is kept of a captioner; searched anew for each box, the first one took 20 s."""
    start = time.process_time()
    parse_boxes(HOSTILE[name], 640, 480)
    assert time.process_time() - start < 3


def test_announcements_without_a_box_are_told_from_those_with_one_wherever_they_stand():
    good, bad = "<|box_start|>(100,200),(300,500)<|box_end|>", '{"bbox_2d": null}'
    for pieces in ([good, bad, good], [bad, good, bad], [bad, bad, good, good, bad], [good, good], [bad]):
        boxes, skipped = parse_boxes(" and ".join(pieces), 640, 480)
        assert (len(boxes), len(skipped)) == (pieces.count(good), pieces.count(bad))


FOREIGN = ("thousandths", "pixels")
ANSWER = '[{"bbox_2d": [100, 200, 300, 400], "label": "cat"}, {"bbox_2d": [0.25, 0.5, 0.75, 1.0], "label": "dog"}]'


class TestNotations:
    @given(pictures_with_boxes(), GRIDS)
    def test_in_every_notation_numbers_are_read_back_within_half_a_step(self, case, notation):
        width, height, box = case
        assume(box[0] < box[2] and box[1] < box[3])
        assume(_is_writable(box, width, height, notation))
        numbers = box_numbers(box, width, height, notation)
        ((read, _),), skipped = parse_boxes(f'{{"bbox_2d": {list(numbers)}}}', width, height, notation)
        assert not skipped
        grid = notation.grid(width, height)
        for side, other, size, steps in zip(box, read, (width, height) * 2, grid * 2, strict=True):
            assert abs(side - other) <= size / steps / 2 * (1 + 1e-9)

    @given(pictures_with_boxes(), GRIDS)
    def test_the_text_form_has_the_numbers_of_the_notation(self, case, notation):
        width, height, box = case
        assume(box[0] < box[2] and box[1] < box[3])
        assume(_is_writable(box, width, height, notation))
        text = format_box(box, width, height, notation)
        ((read, _),), _ = parse_boxes(text, width, height, notation)
        assert format_box(read, width, height, notation) == text

    def test_another_grid_of_finevits_own_changes_nothing_for_foreign_answers(self, monkeypatch):
        def read(name):
            return parse_boxes(ANSWER, 800, 600, NOTATIONS[name])

        before = {name: read(name) for name in NOTATIONS}
        monkeypatch.setitem(NOTATIONS, "finevit", Notation(500))
        assert [read(name) for name in FOREIGN] == [before[name] for name in FOREIGN]
        assert read("finevit").boxes[0].box == pytest.approx((160, 240, 480, 480))
        assert before["finevit"].boxes[0].box == pytest.approx((80, 120, 240, 240))

    def test_pixels_are_those_of_the_picture_that_was_shown(self):
        (cat, dog), skipped = parse_boxes(ANSWER, 800, 600, NOTATIONS["pixels"])
        assert cat.box == pytest.approx((100, 200, 300, 400))
        assert dog.box == pytest.approx((200, 300, 600, 600)), "fractions are of the picture in every notation"
        assert not skipped
        assert parse_boxes("[0, 0, 1100, 1200]", 1100, 1200, NOTATIONS["pixels"]).boxes[0].box == (0, 0, 1100, 1200)
        ((_, reason),) = parse_boxes("[0, 0, 801, 600]", 800, 600, NOTATIONS["pixels"]).skipped
        assert "0 to 800 across and 0 to 600 down" in reason

    def test_the_axes_of_a_picture_are_not_mixed_up(self):
        assert box_numbers((0, 10, 50, 100), 50, 200, Notation(1000)) == (0, 50, 1000, 500)
        assert box_numbers((0, 10, 50, 100), 50, 200, NOTATIONS["pixels"]) == (0, 10, 50, 100)


class TestClipping:
    @given(st.tuples(*[st.floats(-1e4, 1e4)] * 4), SIDES, SIDES)
    def test_what_is_left_lies_in_the_picture_and_what_lay_there_stays(self, box, width, height):
        x1, y1, x2, y2 = clip_box(box, width, height)
        assert 0 <= min(x1, x2) <= max(x1, x2) <= width
        assert 0 <= min(y1, y2) <= max(y1, y2) <= height
        for side, kept, limit in zip(box, (x1, y1, x2, y2), (width, height) * 2, strict=True):
            assert kept == side or not 0 <= side <= limit

    def test_a_box_beside_the_picture_has_no_area_left(self):
        assert clip_box((-30, 5, -10, 20), 100, 50) == (0, 5, 0, 20)
        assert clip_box((90, 40, 130, 60), 100, 50) == (90, 40, 100, 50)
