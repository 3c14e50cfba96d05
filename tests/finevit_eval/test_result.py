"""Runs are put side by side only if they measured the same in the same way."""

import copy
import json

import pytest

from finevit_eval.receipts import samples_seen
from finevit_eval.result import Outcome, Settings, combine, load_results, score_entry


def run(blind=False, weights="w1", **changes):
    receipt = {"blind": blind, "weights": weights, "dtype": "float32", "max_pixels": 1000, **changes}
    receipt.setdefault("tasks", {"doc": {"fingerprint": "q1"}})
    entry = {"metric": "anls", "n": 10, "score": 0.25 if blind else 0.75, "interval": [0.5, 0.9]}
    return {"tasks": {"doc": entry}, "interval_method": "how", "receipt": receipt}


def test_scores_stand_side_by_side():
    combined = combine(run(), run(blind=True), base=run(weights="w0"))
    assert combined["tasks"]["doc"] == {
        "metric": "anls",
        "n": 10,
        "score": 0.75,
        "interval": [0.5, 0.9],
        "blind_score": 0.25,
        "blind_interval": [0.5, 0.9],
        "base_score": 0.75,
        "base_interval": [0.5, 0.9],
    }
    assert {name: receipt["weights"] for name, receipt in combined["receipts"].items()} == {
        "score": "w1",
        "blind": "w1",
        "base": "w0",
    }


def test_a_run_alone_has_no_blind_score():
    assert "blind_score" not in combine(run())["tasks"]["doc"]


@pytest.mark.parametrize(
    ("sighted", "blind", "base", "reason"),
    [
        (run(), run(), None, "given as blind saw its pictures"),
        (run(blind=True), run(blind=True), None, "given as sighted was blind"),
        (run(), None, run(blind=True, weights="w0"), "given as base was blind"),
        (run(), run(blind=True, weights="w2"), None, "has weights w2, the sighted one w1"),
        (run(weights=None), run(blind=True, weights=None), None, "has weights None"),
        (run(), run(blind=True, dtype="bfloat16"), None, "has dtype bfloat16"),
        (run(), run(blind=True, max_pixels=2000), None, "has max_pixels 2000"),
        (run(), None, run(weights="w0", dtype="bfloat16"), "base run has dtype bfloat16"),
        (run(), None, run(weights="w0", max_pixels=2000), "base run has max_pixels 2000"),
        (run(), run(blind=True, tasks={"doc": {"fingerprint": "q2"}}), None, "measured doc with other data"),
        (run(), run(blind=True, tasks={}), None, "measured doc with other data"),
    ],
)
def test_what_does_not_compare_is_refused(sighted, blind, base, reason):
    with pytest.raises(ValueError, match=reason):
        combine(sighted, blind, base)


def test_combining_changes_no_run():
    sighted = run()
    before = copy.deepcopy(sighted)
    combine(sighted, run(blind=True))
    assert sighted == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tasks": {}}', '{"tasks": {"doc": {}}}'])
def test_a_file_that_holds_no_results_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not what `finevit eval` writes"):
        load_results(tmp_path)


def test_results_are_read_back(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(run()))
    assert load_results(tmp_path) == run()


@pytest.mark.parametrize("name", ["limit", "batch_size", "max_pixels"])
def test_settings_are_counts_from_one_up(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Settings(**{name: 0})


def test_a_headline_that_is_no_mean_needs_an_interval_of_its_own():
    samples = [{"id": "a", "group": "a", "score": 1.0}, {"id": "b", "group": "b", "score": 0.0}]
    with pytest.raises(RuntimeError, match="is no mean of its samples' scores and has no interval"):
        score_entry("map", Outcome(0.7, samples))
    assert score_entry("map", Outcome(0.7, samples, interval=(0.4, 0.9)))["interval"] == [0.4, 0.9]


def test_the_samples_that_a_model_was_trained_on_stand_in_its_receipt_or_its_checkpoint(tmp_path):
    assert samples_seen(tmp_path) == {}
    log = [{"step": 1, "samples_seen": 32, "loss": 1.0}, {"step": 2, "samples_seen": 64, "loss": 0.5}, {"step": 2}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert samples_seen(tmp_path) == {"samples": 64}
    (tmp_path / "receipt.json").write_text(json.dumps({"trained": {"samples": 96}}))
    assert samples_seen(tmp_path) == {"samples": 96}
