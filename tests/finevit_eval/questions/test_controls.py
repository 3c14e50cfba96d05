"""Every evaluation that asks questions: who sees the pictures and knows all gets 1, who sees grey gets the prior."""

import io
import json
import statistics
from collections import Counter

import easy_vqa
import pytest
from PIL import Image

from finecap.corpus import easyvqa
from finevit_eval.questions.whole_easyvqa import prior_score
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_eval.suite import EVALUATIONS
from tests.support.hub_folders import tell, write_coloured_records, write_hub_folders

QUESTION_SUITES = ("questions", "lmms_eval")


def samples(folder, name):
    return [json.loads(line) for line in (folder / f"samples_{name}.jsonl").read_text().splitlines()]


def shares(folder, name):
    """How often the most frequent truth of an evaluation is right."""
    truths = Counter(json.dumps(sample["truth"]) for sample in samples(folder, name))
    return truths.most_common(1)[0][1] / truths.total()


@pytest.fixture(params=QUESTION_SUITES)
def suite(request, tmp_path):
    write = {"questions": write_coloured_records, "lmms_eval": write_hub_folders}[request.param]
    return request.param, write(tmp_path / "data")


def test_an_oracle_gets_one_a_blind_one_the_prior_and_shuffled_answers_less(answering, model_dir, suite, tmp_path):
    name, data = suite
    answering(tell)
    seeing = evaluate(model_dir, data, tmp_path / "seeing", [name])["tasks"]
    blind = evaluate(model_dir, data, tmp_path / "blind", [name], Settings(blind=True))["tasks"]
    assert list(seeing) == [one for one, item in EVALUATIONS.items() if item.suite == name]
    for one in seeing:
        assert seeing[one]["score"] == 1.0, one
        assert blind[one]["score"] == pytest.approx(shares(tmp_path / "blind", one)), one
        assert blind[one]["score"] < 0.6, one
        # The truths of the small sets are 0 0 0 1 1 2, so that a shift by half matches few of them.
        assert seeing[one]["controls"]["shuffled"] < 0.4, one


@pytest.fixture
def shapes(monkeypatch):
    """easy-vqa's first 12 test pictures; returns (picture, question) -> answer."""
    monkeypatch.setitem(easyvqa.CAPACITY, "test", 12)
    records = [easyvqa.generate(index, 0, "test", "nano") for index in range(12)]
    return {
        (Image.open(io.BytesIO(record["image"]["bytes"])).tobytes(), item["question"]): item["answers"][0]
        for record in records
        for item in record["qa"]
    }


def test_easy_vqa_brings_its_data_along(answering, model_dir, shapes, tmp_path):
    answering(lambda picture, question: shapes.get((picture.tobytes(), question.split("\n")[0]), "no"))
    seeing = evaluate(model_dir, None, tmp_path / "seeing", ["easyvqa_all"])["tasks"]["easyvqa_all"]
    blind = evaluate(model_dir, None, tmp_path / "blind", ["easyvqa_all"], Settings(blind=True))["tasks"]
    assert (seeing["score"], seeing["n"]) == (1.0, len(shapes))
    said_no = sum(answer == "no" for answer in shapes.values()) / len(shapes)
    assert blind["easyvqa_all"]["score"] == pytest.approx(said_no)
    assert said_no < seeing["controls"]["prior"] < 0.9
    assert seeing["controls"]["shuffled"] < 0.6


def test_the_prior_is_the_answer_that_training_questions_of_the_same_words_have_most_often():
    texts, answers, _ = easy_vqa.get_train_questions()
    asked = "what shape is present?"
    said = statistics.mode(answer for text, answer in zip(texts, answers, strict=True) if text == asked)
    samples = [{"question": asked, "truth": truth} for truth in ("circle", "rectangle", "triangle")]
    assert prior_score(samples) == pytest.approx(1 / 3)
    assert prior_score([{"question": asked, "truth": said}]) == 1.0
    assert prior_score([{"question": "how many?", "truth": statistics.mode(answers)}]) == 1.0
