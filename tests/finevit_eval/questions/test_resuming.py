"""A run that was interrupted goes on where it stopped, and finds the same to the bit."""

import json
from collections import Counter

import pytest

from finevit_eval.kept import KEPT_FILE
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_vl.answering import AnswerGenerator

KINDS = ["doc", "grounding"]
SETTINGS = Settings(limit=6, batch_size=2)


@pytest.fixture
def asked(monkeypatch):
    """Counts what a loaded model is asked; `asked.stop_at` batches it fails."""
    answer = AnswerGenerator.__call__

    class Asked(Counter):
        stop_at = None

        def __call__(self, generator, conversations, **arguments):
            if self.total() == self.stop_at:
                raise KeyboardInterrupt
            self.update(["batches"])
            return answer(generator, conversations, **arguments)

    asked = Asked()
    monkeypatch.setattr(AnswerGenerator, "__call__", lambda *given, **arguments: asked(*given, **arguments))
    return asked


def lines(folder):
    return {kind: (folder / f"samples_{kind}.jsonl").read_text() for kind in KINDS}


def test_only_the_rest_is_asked_and_the_results_are_the_same(asked, model_dir, corpus, tmp_path):
    whole = evaluate(model_dir, corpus, tmp_path / "whole", KINDS, SETTINGS)
    assert asked["batches"] == 6
    asked.clear()
    asked.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(model_dir, corpus, tmp_path / "broken", KINDS, SETTINGS)
    assert (tmp_path / "broken" / KEPT_FILE).is_file()
    asked.clear()
    asked.stop_at = None
    resumed = evaluate(model_dir, corpus, tmp_path / "broken", KINDS, SETTINGS)
    assert asked["batches"] == 2
    assert resumed["tasks"] == whole["tasks"]
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    assert len({json.loads(line)["text"] for line in lines(tmp_path / "whole")["doc"].splitlines()}) > 3
    assert not (tmp_path / "broken" / KEPT_FILE).exists(), "who measures again measures anew"


def test_answers_of_other_settings_are_not_taken(asked, model_dir, corpus, tmp_path):
    asked.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(model_dir, corpus, tmp_path, ["doc", "grounding"], SETTINGS)
    asked.clear()
    asked.stop_at = None
    evaluate(model_dir, corpus, tmp_path, KINDS, Settings(limit=6, batch_size=2, blind=True))
    assert asked["batches"] == 6
