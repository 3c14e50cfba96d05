"""The report holds what it promises, in one file, and shows boxes where they are."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from finevit_eval.report.curve import curve_svg
from finevit_eval.report.examples import pick_examples
from finevit_eval.report.report import write_report
from finevit_eval.result import Settings, combine
from finevit_eval.run import evaluate

CURVE = [{"step": step, "loss": 4.0 / step**0.5} for step in range(1, 200)]
ALONE = {"metric": "anls", "n": 300, "score": 0.75, "interval": [0.69, 0.801]}
TASKS = {"doc": {**ALONE, "blind_score": 0.125, "base_score": 0.5}}


class Page(HTMLParser):
    """Every tag with its attributes, and the text in each table cell and definition."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.text, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in ("td", "dd"):
            self.cells.append("")
            self._open = tag

    def handle_endtag(self, tag):
        self._open = None if tag == self._open else self._open

    def handle_data(self, data):
        self.text.append(data)
        if self._open:
            self.cells[-1] += data

    def find(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())]


def example(**changes):
    base = {
        "title": "Grounding",
        "image": Image.new("RGB", (112, 84)),
        "question": "the <b>cat</b>",
        "metric": "acc@0.5",
        "truth": [10, 20, 40, 60],
        "prediction": [12, 20, 44, 60.5],
        "score": 1.0,
        "iou": 0.83,
        "correct": True,
    }
    return {**base, **changes}


def text_example():
    words = example(title="Documents", truth=["<i>1</i>", "1"], prediction="<script>alert(1)</script>")
    del words["iou"]
    return words


@pytest.fixture
def write(tmp_path):
    def write(results=None, curve=CURVE, examples=None):
        out = tmp_path / "deep" / "report.html"
        write_report(results or {"tasks": TASKS}, curve, examples or [example()], out)
        return Page(out.read_text(encoding="utf-8"))

    return write


def test_the_table_holds_score_blind_gain_and_base(write):
    page = write()
    assert page.cells[0].startswith("Documents")
    assert {"anls", "300", "0.750", "0.125", "+0.625", "0.500"} <= set(page.cells)


def test_a_loss_against_blind_is_shown_as_such(write):
    page = write({"tasks": {"chart": {**ALONE, "score": 0.1, "blind_score": 0.3}}})
    assert "−0.200" in page.cells
    assert "Before tuning" not in page.text


def test_the_interval_stands_beside_its_score_and_its_method_below(write):
    page = write({"tasks": TASKS, "interval_method": "Wilson, by picture"})
    assert "0.690–0.801" in page.cells
    assert "Wilson, by picture" in "".join(page.text)


def test_a_run_without_a_blind_one_has_a_report(write):
    page = write({"tasks": {"doc": ALONE}})
    assert "0.750" in page.cells
    assert "Blind" not in page.text
    assert "grey" not in "".join(page.text)


def test_nothing_is_loaded_from_elsewhere(write):
    page = write()
    sources = [a[k] for _, a in page.tags for k in ("src", "href", "xlink:href", "srcset") if k in a]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not page.find("script")
    assert not page.find("link")
    assert not re.search(r"url\(|@import", "".join(page.text))


def test_true_and_predicted_boxes_are_drawn_in_the_pictures_own_pixels(write):
    page = write()
    assert page.find("svg", viewbox="0 0 112 84")
    (truth,), (predicted,) = page.find("rect", class_="box truth"), page.find("rect", class_="box predicted")
    assert [float(truth[k]) for k in ("x", "y", "width", "height")] == [10, 20, 30, 40]
    assert [float(predicted[k]) for k in ("x", "y", "width", "height")] == [12, 20, 32, 40.5]
    assert "predicted box" in page.text
    assert page.find("image", class_="pixelated")


def test_a_missing_prediction_is_named_and_draws_no_box(write):
    page = write(examples=[example(prediction=None, score=0.0, iou=0.0, correct=False)])
    assert "no box" in page.cells
    assert not page.find("rect", class_="box predicted")
    assert "✗ wrong" in page.text


def test_words_of_the_model_are_escaped(write):
    page = write(examples=[text_example()])
    assert not page.find("script")
    assert "<script>alert(1)</script>" in page.cells
    assert "<i>1</i> / 1" in page.cells


def test_large_pictures_are_scaled_down_but_boxes_stay_in_place(write):
    page = write(examples=[example(image=Image.effect_noise((3000, 2000), 50), truth=[100, 200, 2900, 1900])])
    assert page.find("svg", viewbox="0 0 3000 2000")
    assert float(page.find("rect", class_="box truth")[0]["width"]) == 2800


def test_results_without_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tasks"):
        write_report({"tasks": {}}, CURVE, [], tmp_path / "report.html")


def test_the_curve_falls_where_the_loss_falls():
    (path,) = re.findall(r'class="smooth" d="M([^"]+)"', curve_svg(CURVE))
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert heights == sorted(heights), "SVG's y grows downwards"
    assert len(heights) == len(CURVE)


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}],
        [{"epoch": 1}] * 3,
    ],
)
def test_a_curve_without_two_points_is_left_out(write, curve):
    assert curve_svg(curve) == ""
    assert "No training curve was given." in "".join(write(curve=curve).text)


def test_examples_are_drawn_by_seed_from_every_task_and_not_by_success(oracle, model_dir, corpus, tmp_path):
    for question in list(oracle)[: len(oracle) // 2]:
        oracle[question] = "wrong"
    run, blind = tmp_path / "run", tmp_path / "blind"
    results = combine(
        evaluate(model_dir, corpus, run), evaluate(model_dir, corpus, blind, settings=Settings(blind=True))
    )
    examples = pick_examples(run, blind, n=12, seed=3)
    assert [e["kind"] for e in examples] == [
        kind for kind in ("doc", "chart", "grounding", "easyvqa") for _ in range(3)
    ]
    assert len({e["id"] for e in examples}) == 12
    assert len({e["correct"] for e in examples}) == 2
    again = pick_examples(run, blind, n=12, seed=3)
    assert [e["id"] for e in again] == [e["id"] for e in examples]
    assert [e["id"] for e in pick_examples(run, n=12, seed=4)] != [e["id"] for e in examples]
    write_report(results, CURVE, examples, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.find("article")) == 12
    assert any("lmms-eval" in cell for cell in page.cells)


def test_an_example_shows_the_picture_that_was_asked_about(oracle, model_dir, corpus, make_record, tmp_path):
    evaluate(model_dir, corpus, tmp_path, ["grounding"])
    for chosen in pick_examples(tmp_path, n=10):
        record = make_record(int(chosen["id"].split("-")[1].split("/")[0]))
        assert chosen["question"] == record["qa"][2]["question"]
        assert chosen["truth"] == pytest.approx(json.loads(record["qa"][2]["answers"][0]), abs=1e-3)
        x1, y1, x2, y2 = (round(side) for side in chosen["truth"])
        inside = chosen["image"].crop((x1, y1, x2, y2)).getcolors()
        assert len(inside) == 1, "the box holds the rectangle and nothing else"
