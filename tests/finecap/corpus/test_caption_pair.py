"""Captions of generated pictures are true, tell pictures apart, and change nothing else of a record."""

import hashlib
import itertools
import json
import random
import re

import pytest
from PIL import Image

from finecap.corpus import easyvqa
from finecap.corpus.build import KINDS, generate
from finecap.corpus.caption_pair import Facts, captions, listed
from finecap.corpus.charts import chart
from finecap.corpus.charts import facts as chart_facts
from finecap.corpus.charts.spec import ChartSpec
from finecap.corpus.documents import document
from finecap.corpus.documents import facts as doc_facts
from finecap.corpus.scenes import facts as scene_facts
from finecap.corpus.scenes import scene
from finecap.corpus.scenes.placing import Placed
from finecap.corpus.scenes.sprites import Sprite
from finecap.sentences import sentences
from finevit_vl.tokenizer import build_qwen_tokenizer

FACTS = Facts("A form.", ("It is plain.", "It is old."), ("One is 1.", "Two is 2."))
SHARED = {*itertools.chain(*doc_facts.COMMON.values(), *chart_facts.COMMON.values(), chart_facts.BARE)}
SHARED |= {*scene_facts.COMMON, *scene_facts.APART, *easyvqa.COMMON, *easyvqa.BRIEF}


def many(kind, difficulty, count, split="train"):
    return [generate(kind, index, 0, split, difficulty) for index in range(count)]


def text_of(record, style):
    (text,) = [one["text"] for one in record["captions"] if one["style"] == style]
    return text


def test_own_facts_stand_anywhere_in_train_and_last_in_what_is_held_out():
    def dense(split):
        return {captions(random.Random(seed), FACTS, "me", split, 99)[1]["text"] for seed in range(40)}

    common, own = "It is plain. It is old.", "One is 1. Two is 2."
    assert {f"{common} {own}", f"{own} {common}"} < dense("train")
    assert dense("test") == dense("validation") == {f"{common} {own}"}


def test_own_facts_that_do_not_fit_are_left_out_and_shorter_ones_still_told():
    facts = Facts("A form.", ("It is plain.",), ("One is a very long one.", "Two is 2."))
    (_, dense) = captions(random.Random(0), facts, "me", "test", 9)
    assert dense == {"style": "dense", "text": "It is plain. Two is 2.", "captioner": "me"}


def test_lists_read_as_english():
    assert [listed(["a", "b", "c"][:count]) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("difficulty", ["nano", "small", "base"])
def test_dense_captions_are_as_long_as_said_and_their_own_facts_begin_late_where_held_out(difficulty):
    """By Qwen's tokenizer, at nano by the first 1024 of its ranks."""
    nano = difficulty == "nano"
    tokenizer = build_qwen_tokenizer(1024 if nano else 32768)
    low, high, late = (40, 120, 24) if nano else (80, 250, 64)
    for kind in KINDS:
        for record in many(kind, difficulty, 40 if nano else 4, "test"):
            text = text_of(record, "dense")
            assert low <= len(tokenizer(text)["input_ids"]) <= high
            first = next(fact for fact in sentences(text) if fact not in SHARED)
            assert len(tokenizer(text[: text.index(first)])["input_ids"]) >= late
            assert len(tokenizer(text_of(record, "short"))["input_ids"]) <= 64


def test_nano_captions_differ_as_far_as_the_pictures_do():
    for kind, short in (("doc", 197), ("chart", 197), ("scene", 100), ("easyvqa", 80)):
        records = many(kind, "nano", 200)
        assert len({text_of(record, "short") for record in records}) >= short
        assert len({text_of(record, "dense") for record in records}) >= 190


def is_true_of_form(text, record):
    lines = [item["text"] for item in record["regions"] if item["label"] == "line"]
    fields = re.findall(r"The (\w+) is (\w+)\.", text)
    numbered = re.findall(r"Line (\d) says ([^.]+)\.", text)
    assert fields
    assert numbered
    return all(f"{name} {value}" in lines for name, value in fields) and all(
        lines[int(number) - 1 :][:1] == [said] for number, said in numbered
    )


def test_what_a_form_says_stands_on_its_line_and_on_no_other_form():
    records = many("doc", "nano", 50)
    for record, other in itertools.pairwise(records):
        assert is_true_of_form(text_of(record, "dense"), record)
        assert not is_true_of_form(text_of(other, "dense"), record)


@pytest.mark.parametrize(("difficulty", "count"), [("small", 12), ("base", 10)])
def test_what_a_page_says_can_be_read_on_it(difficulty, count):
    for record in many("doc", difficulty, count):
        texts = "\n".join(item["text"] for item in record["regions"] if item["label"] == "line")
        dense = text_of(record, "dense")
        told = re.findall(r'(?:reads|begins with) "([^"]+)"', dense) + re.findall(r"row of (\S+) reads", dense)
        told += itertools.chain(*re.findall(r"The field ([^:]+?) reads (.+?)\.(?: [A-Z]|$)", dense))
        told += text_of(record, "short").split(" that says ")[1].removesuffix(".").split(" and ")
        assert len(told) > 3
        assert all(words in texts for words in told), told


def chart_with(values, **changes):
    spec = {
        "type": "bar",
        "title": "Sales",
        "row_name": "month",
        "value_name": "Count",
        "rows": ("Jan", "Feb", "Mar"),
        "series": {"": values},
        "colors": ("red", "blue", "green"),
        "value_labels": False,
        "license": "none",
        "key": "none",
    }
    return ChartSpec(**{**spec, **changes})


def test_charts_are_called_highest_only_where_a_person_would_see_it():
    assert list(chart_facts.extreme_facts(chart_with((10, 50, 90)))) == [
        "The largest value is that of Mar.",
        "The smallest value is that of Jan.",
    ]
    assert list(chart_facts.extreme_facts(chart_with((50, 51, 50)))) == []


def told_values(spec):
    return [fact for _, fact in chart_facts.value_facts(spec)]


def test_values_of_a_chart_are_told_with_what_marks_them():
    assert told_values(chart_with((1, 2.5, 3)))[1] == "The bar of Feb is blue and shows 2.5."
    assert told_values(chart_with((1, 2, 3), type="pie"))[2] == "The part of Mar is green and shows 50 percent."
    two = {"city": (1, 2, 3), "road": (4, 5, 6)}
    assert told_values(chart_with((), type="grouped", series=two))[5] == "For Mar, road is 6."
    assert told_values(chart_with((), type="scatter", series=two))[0] == "The mark of Jan lies at 1 across and 4 up."


@pytest.mark.parametrize(("difficulty", "count"), [("nano", 60), ("small", 8)])
def test_what_a_chart_caption_tells_is_what_was_drawn(difficulty, count):
    for record in many("chart", difficulty, count):
        drawn = {item["caption"] for item in record["regions"] if item["label"] == "bar"}
        words = {item["text"] for item in record["regions"] if item["kind"] == "text"}
        dense = text_of(record, "dense")
        bars = re.findall(r"The bar of (.+?) is (\w+) and shows ([\d.]*\d)", dense)
        assert bars
        assert all(f"the {color} bar for {label}, {value}" in drawn for label, color, value in bars)
        assert all(words >= {title} for title in re.findall(r'The title reads "([^"]+)"', dense))


@pytest.mark.parametrize(("difficulty", "count"), [("nano", 80), ("base", 20)])
def test_what_a_scene_caption_tells_is_where_things_lie(difficulty, count):
    checked = 0
    for record in many("scene", difficulty, count):
        boxes = {item["label"]: item["bbox"] for item in record["regions"]}
        described = {item["caption"] for item in record["regions"]}
        dense, size = text_of(record, "dense"), (record["width"], record["height"])
        assert set(re.findall(r"There is (.+?)\.", dense)) <= described
        for noun, *edges in re.findall(
            r"The ([^.]+?) spans (\d+) to (\d+) percent across and (\d+) to (\d+) per", dense
        ):
            sides = [(boxes[noun][index], size[index % 2]) for index in (0, 2, 1, 3)]
            assert [int(edge) for edge in edges] == [round(100 * value / side) for value, side in sides]
            checked += 1
        for one, words, other in re.findall(r"The ([^.]+?) is (left of|above) the ([^.]+?)\.", dense):
            axis = ("left of", "above").index(words)
            assert sum(boxes[one][axis::2]) < sum(boxes[other][axis::2])
            checked += 1
    assert checked > count / 4


def placed(noun, x, side):
    return Placed(Sprite(noun, noun, None), side, False, x, 0, side, side, box=(x, 0, x + side, side), visible=1.0)


def test_a_thing_is_called_the_largest_only_where_it_plainly_is():
    assert list(scene_facts.size_facts([placed("cat", 0, 20), placed("owl", 50, 40)])) == [
        "The owl is the largest thing that is drawn."
    ]
    assert list(scene_facts.size_facts([placed("cat", 0, 36), placed("owl", 50, 40)])) == []


def test_shape_and_colour_of_every_easy_vqa_picture_agree_with_its_published_answers():
    for split in ("train", "test"):
        for number, path in easyvqa._paths(split).items():
            with Image.open(path) as picture:
                color, shape = easyvqa.facts(picture.convert("RGB"), brief=True).short.split()[1:3]
            answers = {item["answers"][0] for item in easyvqa._questions(split)[number]} - {"yes", "no"}
            assert answers <= {color, shape}, (split, number)


def others(records):
    """A hash of everything but captions: pictures, ids, questions, boxes."""
    digest = hashlib.sha256()
    for record in records:
        rest = {**record, "captions": None, "image": hashlib.sha256(record["image"]["bytes"]).hexdigest()}
        digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_captions_change_nothing_else_of_a_record(kind, monkeypatch):
    records = many(kind, "nano", 20)
    for module in (document, chart, scene, easyvqa):
        monkeypatch.setattr(module, "captions", lambda rng, *rest: [rng.random() for _ in range(9)][:0])
    changed = many(kind, "nano", 20)
    assert others(records) == others(changed)
    assert others(records) != others(many(kind, "nano", 19))


def test_names_and_global_captions_are_those_of_corpora_before_there_were_captions():
    """Pinned; both come from Python's random numbers alone."""
    told = [(record["id"], record["global_caption"]) for kind in ("doc", "chart") for record in many(kind, "nano", 20)]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == "a11eb8cb7adbacb0"
