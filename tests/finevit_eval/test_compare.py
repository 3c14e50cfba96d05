"""Two runs are tested over the same samples, and only over the same."""

import json

import pytest

from finevit_cli import main
from finevit_eval.compare import compare
from finevit_eval.result import Outcome, score_entry, write_results


@pytest.fixture
def make_run(tmp_path):
    def make_run(folder, scores, facts=None, interval=None, **changes):
        receipt = {"blind": False, "dtype": "float32", "max_pixels": 1000} | changes
        outcomes = {}
        for name, values in scores.items():
            samples = [{"id": f"s{n}", "group": f"p{n // 2}", "score": value} for n, value in enumerate(values)]
            outcomes[name] = Outcome(sum(values) / len(values), samples, interval=interval)
        receipt["tasks"] = {name: {"fingerprint": name, "prompt": "Q", **(facts or {})} for name in scores}
        entries = {name: score_entry("acc", outcome) for name, outcome in outcomes.items()}
        write_results(tmp_path / folder, entries, outcomes, receipt, {})
        return tmp_path / folder

    return make_run


def test_each_shared_evaluation_has_its_line(make_run):
    first = make_run("first", {"doc": [0.0] * 40, "chart": [1.0, 0.0] * 20, "easyvqa": [1.0]})
    second = make_run("second", {"chart": [1.0, 0.0] * 20, "doc": [1.0] * 30 + [0.0] * 10})
    doc, chart = compare(first, second)
    assert (doc.name, doc.n, doc.first, doc.second) == ("doc", 40, 0.0, 0.75)
    assert doc.difference.mean == 0.75
    assert doc.corrected_p == pytest.approx(2 * doc.difference.p)
    assert (chart.difference.mean, chart.corrected_p) == (0.0, 1.0)
    assert compare(second, first)[1].difference.mean == -0.75
    assert compare(first, second) == compare(first, second)


def test_samples_are_paired_by_id_and_not_by_place(make_run):
    first = make_run("first", {"doc": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]})
    path = make_run("second", {"doc": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]}) / "samples_doc.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    (same,) = compare(first, path.parent)
    assert (same.difference.low, same.difference.high, same.difference.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"facts": {"fingerprint": "else"}}, "measured doc with other data"),
        ({"facts": {"prompt": "R"}}, "measured doc with another prompt"),
        ({"facts": {"generation_kwargs": {"max_new_tokens": 3}}}, "another generation kwargs"),
        ({"max_pixels": 2000}, "has max_pixels 2000, the first one 1000"),
        ({"dtype": "bfloat16"}, "has dtype bfloat16"),
        ({"blind": True}, "has blind True"),
    ],
)
def test_other_data_and_settings_are_refused_in_one_sentence(make_run, changes, reason, capsys):
    first, second = make_run("first", {"doc": [1.0, 0.0]}), make_run("second", {"doc": [1.0, 0.0]}, **changes)
    assert main(["eval", "compare", str(first), str(second)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1


def test_nothing_in_common_and_lost_samples_are_refused(make_run):
    first, second = make_run("first", {"doc": [1.0, 0.0]}), make_run("second", {"chart": [1.0, 0.0]})
    with pytest.raises(ValueError, match="expected the same evaluations in both"):
        compare(first, second)
    third = make_run("third", {"doc": [1.0, 0.0, 1.0, 0.0]})
    with pytest.raises(ValueError, match="are not the same"):
        compare(first, third)
    (third / "samples_doc.jsonl").unlink()
    with pytest.raises(ValueError, match=r"samples_doc\.jsonl is missing"):
        compare(first, third)


def test_a_score_that_is_no_mean_of_its_samples_is_not_compared(make_run):
    first, second = (make_run(name, {"doc": [1.0, 0.0]}, interval=(0.1, 0.3)) for name in ("first", "second"))
    results = json.loads((second / "results.json").read_text())
    results["tasks"]["doc"]["score"] = 0.2
    (second / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="no mean of its samples' scores"):
        compare(first, second)


def test_the_command_prints_a_line_for_each_and_takes_nothing_else(make_run, capsys):
    run = str(make_run("first", {"doc": [1.0, 0.0]}))
    assert main(["eval", "compare", run, run]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["p", "Holm"]
    assert line.split()[:5] == ["doc", "2", "0.5000", "0.5000", "+0.0000"]
    assert main(["eval", "compare", run]) == 2
    assert main(["eval", "compare", run, run, "--model", "m"]) == 2
    assert "compare takes two folders of results" in capsys.readouterr().err
    assert main(["eval", "doc"]) == 2
    assert "with --model" in capsys.readouterr().err
