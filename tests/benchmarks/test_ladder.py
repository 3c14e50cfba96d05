"""The ladder before anything is trained: its rule, its claims, the graph of its runs, their recipes and its pages."""

import io
import json
from collections import Counter
from dataclasses import replace

import pytest
import yaml
from PIL import Image

from benchmarks.ladder import pages
from benchmarks.ladder.arms import PARTS, arms, recipe_of, steps_of, with_needs
from benchmarks.ladder.claims import (
    CLAIMS,
    NOT_REPRODUCED,
    REPRODUCED,
    SCORES,
    TOO_SMALL,
    Claim,
    Comparison,
    judge,
    sides,
)
from benchmarks.ladder.drawing import draw_readings
from benchmarks.ladder.measuring import QUESTIONS, RETRIEVAL
from benchmarks.ladder.report import judged, page, plans, write_report
from benchmarks.ladder.running import Ladder, begin, finish, more_steps, read_steps
from benchmarks.ladder.sizes import SAVES, SIZES
from finevit_training.recipe import parse_recipe

ALL_SIZES = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.05, 0.06, 0.07], REPRODUCED),
        ([-0.05, -0.06, -0.07], NOT_REPRODUCED),
        ([0.05, 0.06], REPRODUCED),
        ([0.001, -0.001, 0.002, -0.002], NOT_REPRODUCED),  # surely less than a percentage point
        ([0.001, -0.001], TOO_SMALL),  # the same of two seeds
        ([0.1, -0.1, 0.05], TOO_SMALL),
        ([0.0, 0.0, 0.0], NOT_REPRODUCED),
        ([0.9], TOO_SMALL),  # one seed tells nothing, whatever it says
        ([-0.9], TOO_SMALL),
    ],
)
def test_the_rule_sets_the_mean_difference_against_two_standard_errors(differences, word):
    assert judge(differences).word == word


def test_two_standard_errors_are_those_of_the_mean():
    verdict = judge([0.0, 0.02, 0.04])  # standard deviation 0.02
    assert verdict.difference == pytest.approx(0.02)
    assert verdict.two_errors == pytest.approx(2 * 0.02 / 3**0.5)
    assert judge([0.02]).two_errors is None


@pytest.mark.parametrize("differences", [[], [0.1, float("nan")]])
def test_what_is_no_number_has_no_verdict(differences):
    with pytest.raises(ValueError, match="expected one number of each seed"):
        judge(differences)


def test_a_claim_compares_its_first_run_with_its_second_where_a_seed_has_both():
    def tasks(doc):
        return {"doc": {"score": doc}, "easyvqa": {"score": 0.5}}

    claim = Claim("0", "", Comparison("better", "worse", "general"), "")
    seeds = [{"better": tasks(0.4), "worse": tasks(0.2)}, {"better": tasks(0.9)}]
    assert sides(claim, seeds) == [(pytest.approx(0.45), pytest.approx(0.35))]
    turned = claim._replace(compared=Comparison("worse", "better", "general"))
    assert judged(claim, seeds)["difference"] == -judged(turned, seeds)["difference"] == pytest.approx(0.1)
    assert judged(claim, seeds[1:]) is None


def test_local_over_general_is_what_local_tasks_have_more():
    tasks = {name: {"score": score} for name, score in zip(QUESTIONS, (0.1, 0.4, 0.6, 0.3), strict=True)}
    assert SCORES["general"](tasks) == pytest.approx(0.2)
    assert SCORES["local over general"](tasks) == pytest.approx(0.3)


def made_up(base):
    """A seed of a ladder in which every score grows from run to run."""
    trained = {"steps": 800, "samples": 102_400, "flops": 8e13, "minutes": 9.0}
    trained |= {"images_per_second": 210.0, "last_loss": 1.7}
    figures, planned = {}, plans(SIZES["nano"])
    for place, run in enumerate(arms(SIZES["nano"]).values()):
        score = base + place / 100
        tasks = {
            task: {"score": score, "n": 1000} for task in (RETRIEVAL if run.script == "contrastive" else QUESTIONS)
        }
        readings = [
            {"share": share, "samples": 102_400 * share, "flops": 8e13 * share, "loss": 5 - 3 * share, "tasks": tasks}
            for share in (0.1, 0.25, 0.5, 1.0)
        ]
        scores = None if run.script in ("mim", "align") else {"tasks": tasks, "readings": readings}
        figures[run.name] = {"trained": trained, "plan": planned[run.name], "scores": scores}
    return figures


def test_the_table_sets_what_was_found_beside_the_paper(tmp_path):
    seeds = {seed: made_up(seed / 1000) for seed in range(3)}
    scored = [{name: run["scores"]["tasks"] for name, run in runs.items() if run["scores"]} for runs in seeds.values()]
    found = [judged(claim, scored) for claim in CLAIMS]
    text = page("nano", seeds, scored, found)
    rows = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if " − " in line}
    assert [cell.strip() for cell in rows["2"][3:9]] == [
        *("sft_II_after_I − sft_I, general", "13.1 − 12.1", "+1.0 ± 0.0", "3", REPRODUCED),
        "general 57.12 → 64.80 (Table 8)",
    ]
    assert rows["1a"][7].strip() == NOT_REPRODUCED  # "II" stands behind "II_after_I"
    assert "| sft_III_encoder | 15.1 | 15.1 | 15.1 | 15.1 | 15.1 | 15.1 | 73.29 / 70.33 |" in text
    assert "short text, dense queries 6.1; dense text, short queries 7.1" in text
    draw_readings(list(seeds.values()), tmp_path / "readings.png")
    assert Image.open(tmp_path / "readings.png").size[0] > 1000


def test_seeds_of_an_earlier_report_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.ladder.report.figures", lambda ladder: made_up(ladder.seed / 1000))
    write_report(tmp_path, "nano", [Ladder("nano", seed, tmp_path / "one") for seed in (2, 0)])
    write_report(tmp_path, "nano", [Ladder("nano", 1, tmp_path / "another machine")])
    written = json.loads((tmp_path / "nano.json").read_text())
    assert list(written["runs"]) == ["0", "1", "2"]
    assert written["runs"]["2"] == made_up(0.002)
    assert [len(claim["scores"]["more"]) for claim in written["claims"]] == [3] * len(CLAIMS)


def test_a_few_runs_of_a_seed_leave_its_others_in_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.ladder.report.figures", lambda ladder: made_up(0))
    write_report(tmp_path, "nano", [Ladder("nano", 0, tmp_path / "one")])
    again = {name: made_up(0.1)[name] for name in ("pages_native", "sft_I")}
    monkeypatch.setattr("benchmarks.ladder.report.figures", lambda ladder: again)
    write_report(tmp_path, "nano", [Ladder("nano", 0, tmp_path / "another machine")])
    runs = json.loads((tmp_path / "nano.json").read_text())["runs"]["0"]
    assert runs == made_up(0) | again


def test_runs_of_an_earlier_report_with_other_recipes_do_not_count(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.ladder.report.figures", lambda ladder: made_up(ladder.seed / 1000))
    write_report(tmp_path, "nano", [Ladder("nano", 0, tmp_path)])
    steps = {**SIZES["nano"].steps, "align": 7}
    monkeypatch.setitem(SIZES, "nano", replace(SIZES["nano"], steps=steps))
    write_report(tmp_path, "nano", [Ladder("nano", 1, tmp_path)])
    kept = json.loads((tmp_path / "nano.json").read_text())["runs"]["0"]
    gone = {"III", "III_frozen", "sft_III", "sft_III_encoder", "sft_III_frozen"}
    assert set(made_up(0)) - set(kept) == gone, "those whose recipe is another, and those that start from them"
    assert "of seed 0, III, III_frozen" in capsys.readouterr().err


@ALL_SIZES
def test_every_run_stands_behind_those_that_it_needs(size):
    runs = arms(size)
    for place, run in enumerate(runs.values()):
        assert set(run.needs) <= set(list(runs)[:place]), run.name


@ALL_SIZES
def test_the_runs_of_every_claim_exist_and_give_its_score(size):
    runs = arms(size)
    given = {"contrastive": set(RETRIEVAL), "vl_sft": set(QUESTIONS)}
    for claim in CLAIMS:
        for name in claim.compared[:2]:
            known = {key: {"score": 0.5} for key in given[runs[name].script]}
            SCORES[claim.compared.score](known)
    assert len({claim.number[0] for claim in CLAIMS}) == 8


@ALL_SIZES
def test_each_run_is_a_recipe_of_its_stage_with_fixed_steps(size, tmp_path):
    for run in arms(size).values():
        path = tmp_path / f"{run.name}.yaml"
        recipe = recipe_of(run, size, tmp_path, tmp_path, seed=3, steps=steps_of(run, size))
        path.write_text(yaml.safe_dump(recipe))
        training = parse_recipe(["--recipe", str(path)], PARTS[run.script]).training
        assert (training.max_minutes, training.seed) == (None, 3)
        assert training.max_steps == steps_of(run, size)
        assert recipe["per_device_train_batch_size"] % 2 == 0 or size is SIZES["small"]  # two processes on a CPU
        for key, place in run.start.items():
            assert recipe[key] == str(tmp_path / place)


def test_runs_that_are_compared_differ_in_what_the_claim_is_about_alone(tmp_path):
    size = SIZES["nano"]
    runs = arms(size)

    def differing(one, other):
        recipes = [
            recipe_of(runs[name], size, tmp_path, tmp_path, 0, steps_of(runs[name], size)) for name in (one, other)
        ]
        keys = {key for key in {*recipes[0], *recipes[1]} if recipes[0].get(key) != recipes[1].get(key)}
        return keys - {"output_dir"}

    assert differing("II_after_I", "II") == {"vision", "vision_config"}
    assert differing("II_short", "II_dense") == {"captions"}
    assert differing("II_after_I", "II_few_tokens") == {"text_length"}
    assert differing("III", "III_frozen") == {"train_tower"}
    assert differing("I", "I_paper") == {"mask_ratio", "loss_on"}
    assert differing("sft_I", "sft_II_after_I") == differing("sft_III_encoder", "sft_II_after_I") == {"vision"}
    assert differing("pages_native", "pages_square") == {"data"}


def test_questions_are_asked_in_the_fine_tuning_alone(tmp_path):
    """A mixture without "qa" asks all of them; stage III would then learn what it is measured by."""
    size = SIZES["nano"]
    runs = arms(size)
    for name in ("III", "III_frozen"):
        assert recipe_of(runs[name], size, tmp_path, tmp_path, seed=0, steps=1)["mixture"]["qa"] == 0
    first, last = recipe_of(runs["sft_III"], size, tmp_path, tmp_path, seed=0, steps=1)["mixture"]
    assert first["mixture"]["qa"] == 0
    assert last["mixture"].keys() >= set(QUESTIONS)


def test_equal_flops_are_as_many_more_steps_as_the_other_run_cost():
    own = {"flops": 800.0, "steps": 80}
    assert more_steps(80, {"flops": 400.0}, own) == 120
    assert more_steps(80, {"flops": 1.0}, own) == 100  # up to a multiple of SAVES
    assert more_steps(80, {"flops": 0.0}, own) == 80


@ALL_SIZES
def test_stage_two_is_read_at_steps_that_have_a_checkpoint(size):
    for steps in (size.steps["contrastive"], size.steps["contrastive"] + 3 * SAVES):
        assert list(read_steps(steps).values()) == [0.1, 0.25, 0.5, 1.0]
        assert all(step % (steps // SAVES) == 0 for step in read_steps(steps))
        assert steps % SAVES == 0


def test_only_some_runs_bring_what_they_need():
    runs = arms(SIZES["nano"])
    assert with_needs(["sft_III_encoder"], runs) == ["I", "II_after_I", "III", "sft_III_encoder"]
    assert with_needs(["II_equal_flops"], runs) == ["I", "II", "II_equal_flops"]
    with pytest.raises(ValueError, match="unknown runs IV"):
        with_needs(["IV"], runs)


def test_a_folder_of_another_ladder_is_refused(tmp_path):
    ladder = Ladder("smoke", 0, tmp_path)
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "I.yaml").write_text("size: tiny\n")
    with pytest.raises(ValueError, match="the recipe of another ladder"):
        begin(ladder, ladder.runs["I"], group=0)


@pytest.mark.parametrize(("steps", "loss"), [(3, 1.0), (4, float("nan")), (4, None)])
def test_a_training_that_did_not_do_what_it_should_ends_the_ladder(tmp_path, steps, loss):
    ladder = Ladder("smoke", 0, tmp_path)
    (tmp_path / "seed-0" / "I").mkdir(parents=True)
    receipt = {"trained": {"steps": steps, "flops": 1e9, "last_loss": loss}}
    (tmp_path / "seed-0" / "I" / "receipt.json").write_text(json.dumps(receipt))
    with pytest.raises(RuntimeError, match=rf"I ended after {steps} of 4 steps"):
        finish(ladder, ladder.runs["I"], None)


@pytest.fixture(scope="module")
def drawn():
    return [pages.page(index, "train", SIZES["nano"]) for index in range(20)]


def test_pages_are_of_all_aspects_and_hold_all_their_words(drawn):
    shapes = Counter(one.image.size for one in drawn)
    assert set(shapes) == set(SIZES["nano"].page_sizes)
    for one in drawn:
        assert all(
            box[2] <= one.image.width and box[3] <= one.image.height for box in (r["bbox"] for r in one.regions)
        )


@ALL_SIZES
def test_native_and_square_pages_have_about_as_many_tokens(size):
    for width, height in size.page_sizes:
        side = round((width * height) ** 0.5 / 28)
        assert abs(side**2 / (width * height / 28**2) - 1) < 0.06
    assert {width / height for width, height in size.page_sizes} >= {1 / 3, 3.0}


def test_a_square_page_shows_and_boxes_the_same_words(drawn):
    tall = next(one for one in drawn if one.image.size == (112, 336))
    native, square = (pages.record("page", tall, "train", square) for square in (False, True))
    assert (square["width"], square["height"]) == (194, 194)
    assert native["qa"] == square["qa"]
    image = Image.open(io.BytesIO(square["image"]["bytes"])).convert("L")
    for before, after in zip(native["regions"], square["regions"], strict=True):
        assert after["text"] == before["text"]
        assert after["bbox"][2] - after["bbox"][0] > 1.5 * (before["bbox"][2] - before["bbox"][0])
        inked = image.crop([round(edge) for edge in after["bbox"]]).getextrema()
        assert inked[0] < 128 < inked[1]
    x1, _, x2, _ = square["regions"][0]["bbox"]
    below = image.crop((round(x1), 150, round(x2), 190)).getextrema()  # negative control: paper alone
    assert below[0] > 200
