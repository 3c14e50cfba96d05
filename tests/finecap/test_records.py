"""The record schema refuses what no stage could use, and says why."""

import copy

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.corpus.build import generate
from finecap.features import FINECAP_FEATURES
from finecap.records import check_box, grounding_answer, region, validate_record


@pytest.fixture(scope="module")
def record():
    return generate("scene", 3, 0, "train", "nano")


def test_a_generated_record_is_valid_and_survives_arrow(record):
    validate_record(record)
    table = pa.Table.from_pylist([record], schema=FINECAP_FEATURES.arrow_schema)
    read = datasets.Dataset(table)[0]
    assert read["image"].size == (record["width"], record["height"])
    assert read["qa"] == record["qa"]
    assert read["regions"][0]["bbox"] == record["regions"][0]["bbox"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("id",), "", "empty id"),
        (("split",), "dev", "split is 'dev'"),
        (("license",), "", "license"),
        (("image",), {"bytes": b"", "path": None}, "no embedded bytes"),
        (("regions", 0, "bbox"), [5.0, 5.0, 5.0, 9.0], "positive area"),
        (("regions", 0, "bbox"), [0.0, 0.0, 9999.0, 9.0], "inside the"),
        (("regions", 0, "kind"), "thing", "kind is 'thing'"),
        (("regions", 0, "kind"), "text", "has no text"),
        (("regions", 0, "verdict"), True, "verdict is True"),
        (("regions", 0, "verdict"), "refuted", "its caption was refuted"),
        (("qa", 0, "answers"), [], "at least one answer"),
        (("qa", 0, "answers"), ["the left one"], "JSON list"),
        (("qa", 0, "answers"), ["[1, 2, 3]"], "four numbers"),
        (("qa", 0, "question"), " ", "must not be empty"),
    ],
)
def test_a_broken_record_is_refused_by_name(record, path, value, message):
    broken = copy.deepcopy(record)
    target = broken
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ValueError, match="record") as error:
        validate_record(broken)
    assert message in str(error.value)


@given(st.tuples(*[st.integers(0, 400)] * 4))
def test_a_box_is_accepted_exactly_if_it_has_area_and_lies_inside(box):
    x1, y1, x2, y2 = box
    good = x1 < x2 <= 300 and y1 < y2 <= 200
    try:
        check_box(list(box), 300, 200, "box")
    except ValueError:
        assert not good
    else:
        assert good


def test_grounding_answers_write_whole_pixels_without_a_fraction():
    assert grounding_answer([1.0, 2.0, 30.0, 40.5]) == "[1, 2, 30, 40.5]"
    assert region((1, 2, 3, 4), "object", "cat")["bbox"] == [1.0, 2.0, 3.0, 4.0]
