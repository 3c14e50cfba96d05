"""Scores of answers in words: text that was read in a box, and numbers that were counted."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jiwer

from finevit_eval.regions.asking import Answered, Question
from finevit_eval.regions.mixing import another_of_each
from finevit_eval.result import Outcome


def judge_reading(questions: Sequence[Question], answers: Sequence[Answered]) -> Outcome:
    """The share of texts that were read exactly, but for white space; beside it the error rates of all characters and
    words together, by jiwer.

    An error rate has no upper bound (an answer may hold more wrong characters than the text has), so that it is no
    headline; a share is one, and has an interval. Controls: "shuffled" compares with the text of another box,
    "most_common" always answers the most frequent text.
    """
    truths = [_one_line(question.truth) for question in questions]
    read = [_one_line(answer.text) for answer in answers]
    samples = [
        _sample(question, answer, truth, prediction, truth == prediction)
        | {"cer": float(jiwer.cer(truth, prediction)), "box": question.box}
        for question, answer, truth, prediction in zip(questions, answers, truths, read, strict=True)
    ]
    controls = {
        "shuffled": _share(truths, _mixed(read)),
        "most_common": Counter(truths).most_common(1)[0][1] / len(truths),
    }
    rates = {"cer": float(jiwer.cer(truths, read)), "wer": float(jiwer.wer(truths, read))}
    return Outcome(_share(truths, read), samples, rates, controls)


def judge_counting(questions: Sequence[Question], answers: Sequence[Answered]) -> Outcome:
    """The share of answers that are one of the right ones ("3", "three"), whatever their case and final dot.

    Controls: "shuffled" compares with the right answers to another question, "most_common" always answers the most
    frequent number.
    """
    truths = [[_plain(text) for text in question.truth] for question in questions]
    counted = [_plain(answer.text) for answer in answers]
    samples = [
        _sample(question, answer, list(question.truth), answer.text, prediction in truth)
        for question, answer, truth, prediction in zip(questions, answers, truths, counted, strict=True)
    ]
    shuffled = [number in truth for number, truth in zip(_mixed(counted), truths, strict=True)]
    controls = {
        "shuffled": sum(shuffled) / len(shuffled),
        "most_common": Counter(truth[0] for truth in truths).most_common(1)[0][1] / len(truths),
    }
    return Outcome(sum(sample["score"] for sample in samples) / len(samples), samples, controls=controls)


def _sample(question: Question, answer: Answered, truth: Any, prediction: str, right: bool) -> dict[str, Any]:
    return {
        "id": question.id,
        "group": answer.digest,
        "question": question.about,
        "truth": truth,
        "prediction": prediction,
        "score": float(right),
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return _one_line(text).removesuffix(".").lower()


def _share(truths: Sequence[str], read: Sequence[str]) -> float:
    return sum(truth == prediction for truth, prediction in zip(truths, read, strict=True)) / len(truths)


def _mixed(items: Sequence[str]) -> list[str]:
    return [items[place] for place in another_of_each(len(items))]
