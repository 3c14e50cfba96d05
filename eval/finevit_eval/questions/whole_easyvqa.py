"""All test questions of the package easy-vqa, and what they are worth to a model that sees nothing."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from finecap.corpus import easyvqa
from finecap.features import FINECAP_FEATURES
from finecap.shards.layout import split_file

LEVEL = "nano"
"""Pictures of 84 pixels, as the smallest corpora have them; published are 64."""


def write_easyvqa(folder: Path) -> None:
    """Write the published test split as FineCap records, one for each of its 1,000 pictures.

    Raises:
        ValueError: The package is not installed.
    """
    try:
        records = [dict(easyvqa.generate(index, 0, "test", LEVEL)) for index in range(easyvqa.CAPACITY["test"])]
    except ModuleNotFoundError as error:
        raise ValueError("easy-vqa is not installed; install the extra: pip install 'finevit[corpus]'.") from error
    path = split_file(folder, "test", 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(records, features=FINECAP_FEATURES).to_parquet(path)


def prior_score(samples: Sequence[Mapping[str, Any]]) -> float:
    """The accuracy of who sees no picture, but knows the published training questions: each question gets the answer
    that its words have most often there, or the most frequent one of all.
    """
    import easy_vqa

    texts, answers, _ = easy_vqa.get_train_questions()
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, answer in zip(texts, answers, strict=True):
        by_text[text][answer] += 1
    most = Counter(answers).most_common(1)[0][0]
    guesses = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
    return sum(guesses.get(sample["question"], most) == sample["truth"] for sample in samples) / len(samples)
