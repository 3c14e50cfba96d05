"""Whole evaluations through lmms-eval's API: an oracle scores 1, a shuffled oracle does not, failures are loud."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files

import pytest
from lmms_eval.api.metrics import anls
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.refcoco.utils_rec import compute_iou

from finecap.made_with import weight_hashes
from finevit_cli import main
from finevit_eval.model_kinds import DUAL, ENCODER, VISION_LANGUAGE, model_kind
from finevit_eval.questions.kinds import KINDS
from finevit_eval.report.examples import pick_examples
from finevit_eval.report.report import write_report
from finevit_eval.report.runs import gather
from finevit_eval.result import Measured, Outcome, Settings, combine, load_results, score_entry
from finevit_eval.run import choose, evaluate
from finevit_eval.suite import EVALUATIONS, RECORDS, Evaluation


def samples(folder, kind):
    return [json.loads(line) for line in (folder / f"samples_{kind}.jsonl").read_text().splitlines()]


def test_an_oracle_scores_one(oracle, model_dir, corpus, tmp_path):
    results = evaluate(model_dir, corpus, tmp_path, settings=Settings(batch_size=4))
    assert {kind: task["metric"] for kind, task in results["tasks"].items()} == {
        "doc": "anls",
        "chart": "relaxed_accuracy",
        "grounding": "acc@0.5",
        "easyvqa": "accuracy",
    }
    assert all(task["score"] == 1.0 and task["n"] == 10 for task in results["tasks"].values())
    assert results["tasks"]["grounding"]["iou"] > 0.97
    assert load_results(tmp_path) == results


def test_an_oracle_with_its_answers_shuffled_scores_near_zero(oracle, model_dir, corpus, tmp_path):
    for kind_answers in _by_kind(oracle):
        questions = list(kind_answers)
        # A shift by half: neighbouring boxes overlap, and 5 % of a chart's value may be a neighbour's.
        for question, other in zip(questions, questions[5:] + questions[:5], strict=True):
            oracle[question] = kind_answers[other]
    results = evaluate(model_dir, corpus, tmp_path)
    # "17.50" and "67.50" differ in one letter of five: ANLS gives part of the point, as it should.
    assert results["tasks"]["doc"]["score"] <= 0.8
    assert all(results["tasks"][kind]["score"] <= 0.2 for kind in ("chart", "grounding", "easyvqa"))


def _by_kind(oracle):
    marks = ("Total of page", "Height of bar", "rectangle number", "colour of shape")
    return [{q: a for q, a in oracle.items() if mark in q} for mark in marks]


def test_scores_are_lmms_evals_functions_over_the_kept_samples(oracle, model_dir, corpus, tmp_path):
    for kind_answers, wrong in zip(_by_kind(oracle), ("93.50", "240", "<|box_start|>", "red"), strict=True):
        oracle.update(dict.fromkeys(list(kind_answers)[::3], wrong))
    results = evaluate(model_dir, corpus, tmp_path)
    boxes = samples(tmp_path, "grounding")
    by_hand = {
        "doc": [anls(s["truth"], [s["prediction"]])["anls"] for s in samples(tmp_path, "doc")],
        "chart": [relaxed_correctness(s["prediction"], s["truth"]) for s in samples(tmp_path, "chart")],
        "grounding": [compute_iou(s["truth"], s["prediction"] or [0] * 4) >= 0.5 for s in boxes],
        "easyvqa": [s["prediction"] == s["truth"] for s in samples(tmp_path, "easyvqa")],
    }
    for kind, scores in by_hand.items():
        assert results["tasks"][kind]["score"] == pytest.approx(sum(scores) / len(scores))
        assert [s["score"] for s in samples(tmp_path, kind)] == pytest.approx([float(score) for score in scores])
        assert 0 < results["tasks"][kind]["score"] < 1


def test_kept_boxes_are_pixels(oracle, model_dir, corpus, make_record, tmp_path):
    evaluate(model_dir, corpus, tmp_path, ["grounding"])
    for sample in samples(tmp_path, "grounding"):
        record = make_record(int(sample["id"].split("-")[1].split("/")[0]))
        truth = json.loads(record["qa"][2]["answers"][0])
        assert sample["truth"] == pytest.approx(truth, abs=1e-3)
        assert sample["prediction"] == pytest.approx(truth, abs=0.5e-3 * record["width"] + 1e-9)


def test_the_receipt_lets_a_reader_repeat_the_run(oracle, model_dir, corpus, tmp_path):
    settings = Settings(limit=3, batch_size=2, seed=5, max_pixels=200_000)
    receipt = evaluate(model_dir, corpus, tmp_path, settings=settings)["receipt"]
    assert receipt["versions"]["lmms-eval"] == version("lmms-eval")
    assert {"python", "torch", "transformers", "datasets", "finevit"} <= set(receipt["versions"])
    assert receipt["weights"] == weight_hashes(model_dir)
    assert receipt["cpu"]
    assert receipt["threads"] >= 1
    assert {"commit", "gpus"} <= set(receipt)
    names = ("limit", "batch_size", "seed", "max_pixels", "dtype", "device", "blind")
    assert [receipt[name] for name in names] == [3, 2, 5, 200_000, "float32", receipt["device"], False]
    assert all(len(task["fingerprint"]) == 64 and task["n"] == 3 for task in receipt["tasks"].values())
    assert "single word or phrase" in receipt["tasks"]["doc"]["prompt"]
    assert "top-left x, top-left y" in receipt["tasks"]["grounding"]["prompt"]


def test_an_untrained_model_runs_and_blind_answers_differ(model_dir, corpus, tmp_path):
    settings = Settings(limit=4, batch_size=2)
    seeing = evaluate(model_dir, corpus, tmp_path / "seeing", ["doc"], settings)
    blind = evaluate(model_dir, corpus, tmp_path / "blind", ["doc"], replace(settings, blind=True))
    assert [s["id"] for s in samples(tmp_path / "seeing", "doc")] == [
        s["id"] for s in samples(tmp_path / "blind", "doc")
    ]
    assert [s["text"] for s in samples(tmp_path / "seeing", "doc")] != [
        s["text"] for s in samples(tmp_path / "blind", "doc")
    ]
    assert combine(seeing, blind)["tasks"]["doc"]["blind_score"] == blind["tasks"]["doc"]["score"]


def test_every_evaluation_of_the_list_is_a_kind_with_its_yaml():
    folder = files("finevit_eval.questions.tasks")
    assert [name for name, item in EVALUATIONS.items() if item.suite == "questions"] == list(KINDS)
    assert all(folder.joinpath(f"finevit_{kind}.yaml").is_file() for kind in KINDS)


def test_the_list_loads_neither_torch_nor_lmms_eval():
    code = "import sys, finevit_eval.suite; sys.exit(bool({'torch', 'lmms_eval', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_entry_and_one_runner_add_an_evaluation(model_dir, tmp_path, monkeypatch):
    """Results, samples, receipt, interval and the report's title follow from the entry."""

    def count_files(names, model, data, out, settings):
        scores = [1.0, 0.0, 1.0]
        found = [{"id": str(i), "group": str(i), "score": score} for i, score in enumerate(scores)]
        return Measured({name: Outcome(2 / 3, found, facts={"fingerprint": "f"}) for name in names}, {"dtype": "none"})

    monkeypatch.setitem(
        EVALUATIONS, "files", Evaluation("files", (VISION_LANGUAGE,), RECORDS, "share", "Files", count_files)
    )
    results = evaluate(model_dir, tmp_path, tmp_path / "out", ["files"])
    entry = results["tasks"]["files"]
    assert (entry["metric"], entry["n"], entry["score"]) == ("share", 3, 2 / 3)
    assert entry["interval"][0] < 2 / 3 < entry["interval"][1]
    assert results["receipt"]["tasks"]["files"] == {"n": 3, "fingerprint": "f"}
    assert len(samples(tmp_path / "out", "files")) == 3
    runs = gather([tmp_path / "out"])
    write_report(runs, pick_examples(runs), tmp_path / "report.html")
    assert ">Files<" in (tmp_path / "report.html").read_text()


def test_an_unknown_evaluation_and_a_model_of_another_kind_are_refused(model_dir, corpus, tmp_path):
    with pytest.raises(ValueError, match="no evaluation 'dock'; did you mean doc"):
        evaluate(model_dir, corpus, tmp_path / "out", ["dock"])
    with pytest.raises(ValueError, match="t2i_short needs a model of pictures and texts"):
        evaluate(model_dir, corpus, tmp_path / "out", ["t2i_short"])
    with pytest.raises(ValueError, match="It can be measured by doc, chart"):
        evaluate(model_dir, corpus, tmp_path / "out", ["retrieval"])
    (tmp_path / "config.json").write_text('{"model_type": "finevit", "patch_size": 14}')
    with pytest.raises(ValueError, match=r"needs a vision-language model; .* holds an encoder"):
        evaluate(tmp_path, corpus, tmp_path / "out", ["doc"])


def test_results_are_not_put_in_the_place_of_a_file(model_dir, corpus, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="notes is a file"):
        evaluate(model_dir, corpus, tmp_path / "notes", ["doc"])
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_suite_stands_for_what_the_model_can_do_of_it():
    assert choose(["questions"], "m", VISION_LANGUAGE, with_data=True) == list(KINDS)
    assert choose(["chart", "questions"], "m", VISION_LANGUAGE, with_data=True)[0] == "chart"
    assert all("t2i" in name or "i2t" in name for name in choose([], "m", DUAL, with_data=True))


def test_data_are_asked_for_where_they_are_needed_and_refused_where_not(monkeypatch):
    none = replace(EVALUATIONS["doc"], data=None)
    monkeypatch.setitem(EVALUATIONS, "embedded", none)
    with pytest.raises(ValueError, match="doc needs --data: FineCap records"):
        choose(["doc"], "m", VISION_LANGUAGE, with_data=False)
    with pytest.raises(ValueError, match="embedded brings its data along"):
        choose(["embedded"], "m", VISION_LANGUAGE, with_data=True)
    with pytest.raises(ValueError, match="embedded takes no data; measure them in separate runs"):
        choose(["doc", "embedded"], "m", VISION_LANGUAGE, with_data=True)
    assert "embedded" in choose([], "m", VISION_LANGUAGE, with_data=False)
    assert all(EVALUATIONS[name].data is None for name in choose([], "m", VISION_LANGUAGE, with_data=False))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"patch_size": 14}, ENCODER),
        ({"text_config": {}, "vision_config": {}}, DUAL),
        ({"text_config": {}, "vision_config": {}, "image_token_id": 3}, VISION_LANGUAGE),
        ({"vocab_size": 9}, None),
    ],
)
def test_the_kind_of_a_model_is_told_from_its_configuration(config, kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_kind(tmp_path) == kind


def test_a_failing_evaluation_leaves_the_results_of_the_others(oracle, model_dir, corpus, tmp_path, monkeypatch):
    def broken(names, model, data, out, settings):
        raise RuntimeError("no luck")

    monkeypatch.setitem(EVALUATIONS, "broken", replace(EVALUATIONS["doc"], suite="broken", runner=broken))
    with pytest.raises(RuntimeError, match="no luck") as caught:
        evaluate(model_dir, corpus, tmp_path, ["broken", "doc"], Settings(limit=2))
    assert "the results of doc are in" in caught.value.__notes__[0]
    results = load_results(tmp_path)
    assert (list(results["tasks"]), results["failed"]) == (["doc"], {"broken": "RuntimeError: no luck"})


def test_a_folder_without_data_says_what_the_model_can_do(model_dir, capsys):
    assert main(["eval", "--model", str(model_dir)]) == 0
    assert "doc, chart, grounding, easyvqa (--data: FineCap records)" in capsys.readouterr().out


def test_a_score_that_is_no_number_is_no_result():
    with pytest.raises(RuntimeError, match="not a number: iou"):
        score_entry("acc", Outcome(1.0, [{"score": 1.0, "group": "a"}], others={"iou": float("nan")}))


def test_samples_of_an_earlier_run_do_not_stay(oracle, model_dir, corpus, tmp_path):
    evaluate(model_dir, corpus, tmp_path, ["doc", "easyvqa"], Settings(limit=2))
    evaluate(model_dir, corpus, tmp_path, ["doc"], Settings(limit=2))
    assert [path.name for path in tmp_path.glob("samples_*")] == ["samples_doc.jsonl"]


@pytest.mark.slow
def test_a_failing_evaluation_ends_with_a_non_zero_exit_and_no_results(model_dir, corpus, tmp_path):
    broken = tmp_path / "model"
    broken.mkdir()
    for file in model_dir.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text('{"tasks": {"doc": {"score": 1.0}}}')
    command = [
        sys.executable,
        "-m",
        "finevit_cli",
        "eval",
        "--model",
        str(broken),
        "--data",
        str(corpus),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode > 0, done.stdout + done.stderr
    assert "safetensors" in done.stderr.lower() or "header" in done.stderr.lower(), done.stderr
    assert not (out / "results.json").exists(), "an older result must not pass for this run's"


def test_a_mistake_of_the_user_ends_with_2_and_one_line(model_dir, tmp_path, capsys):
    assert main(["eval", "--model", str(model_dir), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "finevit corpus build" in capsys.readouterr().err.splitlines()[-1]


def test_a_crash_in_scoring_raises(oracle, model_dir, corpus, tmp_path, monkeypatch):
    from lmms_eval.api.task import ConfigurableTask

    def crash(*_):
        raise KeyError("scorer")

    monkeypatch.setattr(ConfigurableTask, "process_results", crash)
    with pytest.raises(KeyError, match="scorer"):
        evaluate(model_dir, corpus, tmp_path, ["doc"], Settings(limit=2))
    assert not (tmp_path / "results.json").exists()
