"""Retrieval over published test sets as tasks of mteb, which has none of long texts."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from finevit_eval.retrieval.protocols.reading import Captioned
from finevit_eval.retrieval.protocols.table import PROTOCOLS
from finevit_eval.retrieval.published_sets import read_pool


def published_task(name: str, data: str | Path) -> AbsTaskRetrieval:
    """One of our evaluations ("dci_t2i", "dci_i2t", ...) for `mteb.evaluate`.

    Its main score is `hit_rate_at_1`, CLIP's R@1; `recall_at_1` of pictures with five texts is 0.2 at most. mteb
    breaks ties in an order of its own, where `finevit eval` takes the expectation.

    Args:
        name: Of the evaluation.
        data: The test set as its authors publish it.

    Raises:
        ValueError: The folder has another layout.
    """
    protocol, _, way = name.rpartition("_")
    captioned = read_pool(protocol, Path(data))

    class Task(_PublishedRetrieval):
        metadata = TaskMetadata(
            name=name,
            description=f"{PROTOCOLS[protocol].title}, from the folder of {PROTOCOLS[protocol].layout}",
            type="Any2AnyRetrieval",
            category="t2i" if way == "t2i" else "i2t",
            modalities=["text", "image"],
            main_score="hit_rate_at_1",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            dataset={"path": f"local/{protocol}", "revision": _revision(captioned)},
        )

    return Task(captioned)


class _PublishedRetrieval(AbsTaskRetrieval):
    """What `published_task` gives a description: mteb wants that on the class."""

    def __init__(self, captioned: Captioned) -> None:
        super().__init__()
        self._captioned = captioned

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Fills `dataset`, once; pictures are read when they are encoded."""
        if self.data_loaded:
            return
        by_text = self.metadata.category == "t2i"
        rows = [(place, text) for place, (_, texts) in enumerate(self._captioned) for text in texts]
        text_ids = [f"text-{number}" for number in range(len(rows))]
        owners = [f"picture-{place}" for place, _ in rows]
        picture_ids = [f"picture-{place}" for place in range(len(self._captioned))]
        files = [str(path) for path, _ in self._captioned]
        pictures = Dataset.from_dict({"id": picture_ids, "image": files}).cast_column("image", Image())
        texts = Dataset.from_dict({"id": text_ids, "text": [text for _, text in rows]})
        relevant: dict[str, dict[str, int]] = {}
        for text, picture in zip(text_ids, owners, strict=True):
            query, found = (text, picture) if by_text else (picture, text)
            relevant.setdefault(query, {})[found] = 1
        queries, corpus = (texts, pictures) if by_text else (pictures, texts)
        split = RetrievalSplitData(corpus=corpus, queries=queries, relevant_docs=relevant, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def _revision(captioned: Captioned) -> str:
    """Tells other texts and other pictures by the size of their files; mteb keeps scores by it."""
    rows = [[path.name, path.stat().st_size, texts] for path, texts in captioned]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
