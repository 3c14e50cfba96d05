"""The report holds what it promises of any mixture of suites, in one file, and shows boxes where they are."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from finevit_cli import main
from finevit_eval.report.examples import pick_examples
from finevit_eval.report.report import write_report
from finevit_eval.report.runs import gather
from finevit_eval.result import Outcome, Settings, score_entry, write_results
from finevit_eval.run import evaluate

CURVE = [{"step": step, "loss": 4.0 / step**0.5} for step in range(1, 200)]
BOX = {"question": "the <b>cat</b>", "truth": [10, 20, 40, 60], "prediction": [12, 20, 44, 60.5], "iou": 0.83}


class Page(HTMLParser):
    """Every tag with its attributes, the text in each table cell and definition, and the cells of each table row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.text, self.rows, self.parts, self._open = [], [], [], [], {}, None
        self._part = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._part = attributes.get("id", self._part)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "dd"):
            self.cells.append("")
            self._open = tag

    def handle_endtag(self, tag):
        if tag == "td":
            self.rows[-1].append(self.cells[-1])
        self._open = None if tag == self._open else self._open

    def handle_data(self, data):
        self.text.append(data)
        self.parts[self._part] = self.parts.get(self._part, "") + data
        if self._open:
            self.cells[-1] += data

    def find(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())]

    def row(self, title):
        return next(row for row in self.rows if row and row[0].startswith(title))


def picture(colour=(200, 30, 30), size=(112, 84)):
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, "PNG")
    return encoded.getvalue()


def sample(number, score, **more):
    return {"id": f"s{number}", "group": f"p{number}", "score": score, **more}


@pytest.fixture
def make_run(tmp_path):
    """Writes results as `evaluate` does, from outcomes."""

    def make_run(folder, outcomes, metrics=None, failed=None, **receipt):
        receipt = {"model": "outputs/nano", "weights": {"w": "1"}, "dtype": "float32", "max_pixels": 100} | receipt
        receipt["tasks"] = {
            name: {"fingerprint": f"data of {name}", **outcome.facts} for name, outcome in outcomes.items()
        }
        entries = {name: score_entry((metrics or {}).get(name, "acc"), one) for name, one in outcomes.items()}
        write_results(tmp_path / folder, entries, outcomes, receipt, failed or {})
        return tmp_path / folder

    return make_run


@pytest.fixture
def page_of(tmp_path):
    def page_of(*folders, base=None, n=12, **more):
        out = tmp_path / "deep" / "report.html"
        runs = gather(folders, base)
        write_report(runs, pick_examples(runs, n), out, **more)
        return Page(out.read_text(encoding="utf-8"))

    return page_of


def answers(right, wrong):
    samples = [
        sample(n, float(n < right), question=f"q{n}", truth="yes", prediction="no") for n in range(right + wrong)
    ]
    pictures = lambda ids: ((name, picture()) for name in ids)  # noqa: E731
    return Outcome(right / (right + wrong), samples, pictures=pictures)


def retrieval():
    samples = [sample(0, 1.0, question="a red page", truth="p0", prediction="p0", rank=1)]
    samples += [sample(1, 0.0, question="a blue page", truth="p1", prediction="p2", rank=3, confused=["p2", "p0"])]
    colours = {"p0": (255, 0, 0), "p1": (0, 0, 255), "p2": (0, 255, 0)}
    controls = {"shuffled": 0.25, "chance": 0.125}
    pictures = lambda ids: ((name, picture(colours[name])) for name in ids)  # noqa: E731
    return Outcome(0.5, samples, {"r@5": 0.75}, controls, pictures=pictures)


def test_the_table_holds_score_blind_gain_and_base(make_run, page_of):
    run = make_run("run", {"doc": answers(6, 2)}, {"doc": "anls"})
    blind = make_run("blind", {"doc": answers(1, 7)}, blind=True)
    base = make_run("base", {"doc": answers(4, 4)}, weights={"w": "0"})
    row = page_of(run, blind, base=base).row("Documents")
    assert row[1:4] == ["anls", "8", "0.750"]
    assert row[5:8] == ["0.125", "+0.625", "0.500"]


def test_a_loss_against_blind_is_shown_as_such(make_run, page_of):
    page = page_of(make_run("run", {"chart": answers(1, 9)}), make_run("blind", {"chart": answers(3, 7)}, blind=True))
    assert "−0.200" in page.cells
    assert "Before tuning" not in page.text


def test_the_interval_stands_beside_its_score_and_its_method_below(make_run, page_of):
    page = page_of(make_run("run", {"doc": answers(6, 2)}))
    assert page.row("Documents")[4] == "0.409–0.929"
    assert "Wilson" in "".join(page.text)


def test_a_run_without_a_blind_one_says_nothing_of_blindness(make_run, page_of):
    page = page_of(make_run("run", {"doc": answers(6, 2)}))
    assert "Blind" not in page.text
    assert "grey" not in "".join(page.text)


def test_any_suites_share_a_report_each_with_its_own_table_and_controls(make_run, page_of):
    dual = make_run("dual", {"t2i_short": retrieval()}, {"t2i_short": "r@1"}, model="outputs/dual")
    probe = make_run("probe", {"somebodys": Outcome(1.0, [sample(0, 1.0, truth="cat", prediction="cat")])})
    page = page_of(make_run("run", {"doc": answers(6, 2)}), dual, probe)
    assert [a["id"] for a in page.find("table")] == ["questions", "retrieval", "other"]
    assert page.row("Pictures by short captions")[1:] == [
        "dual",
        "r@1",
        "2",
        "0.500",
        "0.095–0.905",
        "0.750",
        "0.250",
        "0.125",
        "",
    ]
    assert "Shuffled" in page.parts["retrieval"]
    assert "Shuffled" not in page.parts["questions"]
    assert page.row("somebodys")[1:4] == ["nano", "acc", "1"]


def test_an_evaluation_that_failed_is_shown_with_its_reason(make_run, page_of):
    page = page_of(make_run("run", {"doc": answers(6, 2)}, failed={"chart": "RuntimeError: <no> luck"}))
    assert page.row("Charts") == ["Charts", "✗ failed: RuntimeError: <no> luck"]
    assert page.row("Documents")[3] == "0.750"


def test_a_caption_stands_beside_its_picture_and_those_that_were_found_before_it(make_run, page_of):
    page = page_of(make_run("dual", {"t2i_short": retrieval()}))
    assert page.text.count("Found instead") == 1
    assert len(page.find("img", class_="confused pixelated")) == 2
    assert "a blue page" in page.text
    assert "rank 3" in "".join(page.text)
    assert not {"Answer", "Truth", "Predicted"} & set(page.text), "ids of pictures say nothing"


def test_where_nothing_was_asked_nothing_is_called_an_answer(make_run, page_of):
    found = Outcome(0.0, [sample(0, 0.0, truth="cat", prediction="dog")], {"spread": 0.5})
    page = page_of(make_run("probe", {"somebodys": found}))
    assert {"Predicted", "Truth"} <= set(page.text)
    assert "Answer" not in page.text
    assert not page.find("p", class_="question")


def test_the_surest_failures_come_first(make_run, page_of):
    confident = [sample(n, float(n % 2), truth="cat", prediction=f"dog {n}", confidence=n / 40) for n in range(40)]
    page = page_of(make_run("probe", {"somebodys": Outcome(0.5, confident)}), n=4)
    shown = re.findall(r"dog (\d+)", page.parts["failures"])
    assert len(shown) == 4
    assert shown == sorted(shown, key=int, reverse=True)
    assert all(int(number) % 2 == 0 and int(number) >= 24 for number in shown)
    assert "surest first" in page.parts["examples"] + page.parts["failures"]


def test_scores_over_samples_seen_are_drawn_where_checkpoints_differ(make_run, page_of):
    runs = [
        make_run(f"at{samples}", {"doc": answers(right, 10 - right)}, samples=samples, model=f"checkpoint-{samples}")
        for samples, right in ((1000, 2), (4000, 8), (2000, 5))
    ]
    page = page_of(*runs)
    (chart,) = [a for a in page.find("svg", class_="curve") if "Documents" in a["aria-label"]]
    assert chart["aria-label"] == "Documents: 0.200 after 1,000 samples, 0.800 after 4,000"
    dots = page.find("circle", class_="dot")
    across, up = ([float(dot[key]) for dot in dots] for key in ("cx", "cy"))
    assert across == sorted(across)
    assert up == sorted(up, reverse=True), "SVG's y grows downwards"
    assert (across[1] - across[0]) * 2 == pytest.approx(across[2] - across[1], abs=0.2)
    assert not page_of(*runs[:1]).find("circle", class_="dot")


def test_a_blind_run_of_other_weights_and_a_strange_base_are_refused(make_run):
    run = make_run("run", {"doc": answers(6, 2)})
    stranger = make_run("blind", {"doc": answers(6, 2)}, blind=True, weights={"w": "2"})
    with pytest.raises(ValueError, match="is a blind run, and none of the others is of the same weights"):
        gather([run, stranger])
    with pytest.raises(ValueError, match="Every run given was blind"):
        gather([stranger])
    with pytest.raises(ValueError, match="has the evaluations of none"):
        gather([run], make_run("base", {"chart": answers(6, 2)}))


def test_models_of_one_name_are_told_apart_by_their_folders(make_run):
    outcome = {"doc": answers(6, 2)}
    labels = [run.label for run in gather([make_run("one", outcome), make_run("two", outcome, model="else/nano")])]
    assert labels == ["nano (one)", "nano (two)"]


def test_nothing_is_loaded_from_elsewhere(make_run, page_of):
    page = page_of(make_run("run", {"doc": answers(6, 2), "t2i_short": retrieval()}), curve=CURVE)
    sources = [a[k] for _, a in page.tags for k in ("src", "href", "xlink:href", "srcset") if k in a]
    assert sources
    assert all(re.match(r"data:image/(png|webp);base64,", source) for source in sources)
    assert not page.find("script")
    assert not page.find("link")
    assert not re.search(r"url\(|@import", "".join(page.text))


def boxes(size=(112, 84), **changes):
    found = [sample(0, 1.0, **(BOX | changes))]
    return Outcome(1.0, found, pictures=lambda ids: ((name, picture(size=size)) for name in ids))


def test_true_predicted_and_asked_boxes_are_drawn_in_the_pictures_own_pixels(make_run, page_of):
    page = page_of(make_run("run", {"grounding": boxes(box=[1, 2, 30, 40])}))
    assert page.find("svg", viewbox="0 0 112 84")
    drawn = {name: page.find("rect", class_=f"box {name}")[0] for name in ("truth", "predicted", "asked")}
    sides = {name: [float(rect[k]) for k in ("x", "y", "width", "height")] for name, rect in drawn.items()}
    assert sides == {"truth": [10, 20, 30, 40], "predicted": [12, 20, 32, 40.5], "asked": [1, 2, 29, 38]}
    assert {"true box", "predicted box", "box that was asked about"} <= set(page.text)
    assert page.find("image", class_="pixelated")


def test_a_missing_prediction_is_named_and_draws_no_box(make_run, page_of):
    page = page_of(make_run("run", {"grounding": boxes(prediction=None, iou=0.0)}))
    assert "no box" in page.cells
    assert not page.find("rect", class_="box predicted")


def test_words_of_the_model_are_escaped(make_run, page_of):
    words = sample(0, 0.0, question="<u>?", truth=["<i>1</i>", "1"], prediction="<script>alert(1)</script>")
    page = page_of(make_run("run", {"doc": Outcome(0.0, [words])}))
    assert not page.find("script")
    assert "<script>alert(1)</script>" in page.cells
    assert "<i>1</i> / 1" in page.cells


def test_large_pictures_are_scaled_down_but_boxes_stay_in_place(make_run, page_of):
    page = page_of(make_run("run", {"grounding": boxes((3000, 2000), truth=[100, 200, 2900, 1900])}))
    assert page.find("svg", viewbox="0 0 3000 2000")
    assert float(page.find("rect", class_="box truth")[0]["width"]) == 2800
    assert len(page.find("image")[0]["href"]) < 50_000


def test_a_picture_that_cannot_be_read_is_left_out(make_run, page_of):
    outcome = Outcome(1.0, [sample(0, 1.0, **BOX)], pictures=lambda ids: ((name, b"no picture") for name in ids))
    page = page_of(make_run("run", {"grounding": outcome}))
    assert len(page.find("article")) == 1
    assert not page.find("image")


def test_feature_maps_are_shown_with_their_captions(make_run, page_of, tmp_path):
    maps = tmp_path / "maps"
    (maps / "cat").mkdir(parents=True)
    for name in ("cat/pca.png", "cat/phrase.png"):
        (maps / name).write_bytes(picture())
    (maps / "captions.json").write_text(json.dumps({"cat/pca.png": "Three principal components"}))
    run = make_run("run", {"doc": answers(6, 2)})
    page = page_of(run, pictures=maps)
    assert [a["alt"] for a in page.find("img")] == ["Three principal components", "cat/phrase"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        page_of(run, pictures=tmp_path / "empty")


def test_every_figure_stands_in_a_csv_and_a_json_beside_the_page(make_run, page_of, tmp_path):
    run = make_run("run", {"t2i_short": retrieval()}, {"t2i_short": "r@1"}, samples=640)
    page_of(run)
    lines = list(csv.DictReader((tmp_path / "deep" / "report.csv").open()))
    assert {line["name"]: float(line["value"]) for line in lines} == {
        "score": 0.5,
        "r@5": 0.75,
        "shuffled": 0.25,
        "chance": 0.125,
    }
    assert {(line["suite"], line["evaluation"], line["model"], line["samples_seen"]) for line in lines} == {
        ("retrieval", "t2i_short", "nano", "640")
    }
    (whole,) = json.loads((tmp_path / "deep" / "report.json").read_text())["runs"]
    assert whole["tasks"]["t2i_short"]["score"] == 0.5
    assert whole["receipts"]["score"]["weights"] == {"w": "1"}


def test_examples_are_drawn_by_seed_from_every_evaluation_and_not_by_success(oracle, model_dir, corpus, tmp_path):
    for question in list(oracle)[: len(oracle) // 2]:
        oracle[question] = "wrong"
    run, blind = tmp_path / "run", tmp_path / "blind"
    evaluate(model_dir, corpus, run)
    evaluate(model_dir, corpus, blind, settings=Settings(blind=True))
    (gathered,) = gather([run, blind])
    examples = pick_examples([gathered], n=8)
    titles = [example.title for example in examples.drawn]
    assert titles == [title for title in ("Documents", "Charts", "Grounding", "easy-vqa") for _ in range(2)]
    everything = examples.drawn + examples.failed
    ids = [(example.title, example.sample["id"]) for example in everything]
    assert len(set(ids)) == len(ids) > 8
    assert all(example.blind and example.blind["id"] == example.sample["id"] for example in everything)
    assert all(
        example.picture and (example.picture.width, example.picture.height) == (112, 84) for example in everything
    )
    again = pick_examples([gathered], n=8)
    assert [e.sample["id"] for e in again.drawn] == [e.sample["id"] for e in examples.drawn]
    assert main(["report", str(run), str(blind), "--examples", "8", "--out", str(tmp_path / "report.html")]) == 0
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.find("article")) == len(everything)
    assert any("lmms-eval" in cell for cell in page.cells)


def test_an_example_shows_the_picture_that_was_asked_about(oracle, model_dir, corpus, make_record, tmp_path):
    evaluate(model_dir, corpus, tmp_path, ["grounding"])
    examples = pick_examples(gather([tmp_path]), n=10).drawn
    assert len(examples) == 10
    for example in examples:
        record = make_record(int(example.sample["id"].split("-")[1].split("/")[0]))
        assert example.sample["question"] == record["qa"][2]["question"]
        x1, y1, x2, y2 = (round(side) for side in example.sample["truth"])
        with Image.open(io.BytesIO(example.picture.data)) as kept:
            inside = kept.convert("RGB").crop((x1, y1, x2, y2)).getcolors()
        assert len(inside) == 1, "the box holds the rectangle and nothing else"
