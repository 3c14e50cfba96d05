"""FineCap records as a map from sample keys to samples, and what stands in for a record that cannot be used."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from torch.utils.data import Dataset

from finecap.features import FINECAP_FEATURES
from finecap.hub import is_hub_id
from finecap.shards.layout import needed_split_files
from finecap.tasks.length import rough_tokens
from finevit_training.data.order import SampleKey

MOST_REPLACEMENTS = 1000


class RecordDataset(Dataset):
    """Map from `SampleKey` to `Sample` over FineCap records; pictures stay encoded until they are collated."""

    def __init__(self, records: datasets.Dataset) -> None:
        self.records = records.cast_column("image", datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: SampleKey) -> "Sample":
        return Sample(index, self.records[index.index], self)


class Sample(NamedTuple):
    """A record together with its key, and where others like it are (None: nowhere)."""

    key: SampleKey
    record: dict[str, Any]
    dataset: RecordDataset | None = None

    def stream(self, seed: int) -> str:
        """Seeds the random numbers of this sample in this epoch, the same in every process."""
        return f"{seed}/{self.key.epoch}/{self.key.index}"

    def replacements(self, seed: int) -> Iterator["Sample"]:
        """Up to `MOST_REPLACEMENTS` other samples to take if this one cannot be used, in this order.

        They follow from (seed, epoch, index) alone, so that a resumed run and any number of loader workers take the
        same ones.
        """
        if self.dataset is None:
            return
        rng = random.Random(f"{self.stream(seed)}/replacement")
        for _ in range(MOST_REPLACEMENTS):
            yield self.dataset[self.key._replace(index=rng.randrange(len(self.dataset)))]


def load_records(paths: Sequence[str], split: str) -> datasets.Dataset:
    """The records of one split of one or more corpora.

    Args:
        paths: folders in the Hub's layout (`<path>/data/<split>-*.parquet`), or ids of datasets on the Hub, see
            `finecap.hub.is_hub_id`.
        split: the same of all of them.

    Raises:
        ValueError: a path is no such folder, the Hub does not give the dataset, there is no such split, or what is in
            it are no FineCap records.
    """
    parts = [_load_corpus(path, split) for path in paths]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _load_corpus(path: str, split: str) -> datasets.Dataset:
    try:
        records = _load_hub(path, split) if is_hub_id(path) else _load_folder(Path(path), split)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"split {split!r} of {path!r} in `data` cannot be loaded: {error}; give a folder that `finevit corpus "
            "build` or `finevit caption` wrote, or the id of a dataset on the Hub that has this split"
        ) from error
    if missing := [name for name in FINECAP_FEATURES if name not in records.column_names]:
        raise ValueError(f"{path!r} in `data` holds no FineCap records: they lack {missing}")
    ours, theirs = FINECAP_FEATURES.arrow_schema, records.features.arrow_schema
    if other := [name for name in FINECAP_FEATURES if theirs.field(name).type != ours.field(name).type]:
        raise ValueError(
            f"{path!r} in `data`: its columns {other} are not those of this version's FineCap records "
            "(finecap.features.FINECAP_FEATURES); make it again, or convert them"
        )
    return records


def _load_hub(name: str, split: str) -> datasets.Dataset:
    return datasets.load_dataset(name, split=split)


def _load_folder(folder: Path, split: str) -> datasets.Dataset:
    """By its files, whose times are in the key of the cache. `load_dataset(folder)` would take the cache of any other
    folder of this name, or of what was in this one before.
    """
    files = [str(path.resolve()) for path in needed_split_files(folder, split)]
    return datasets.load_dataset("parquet", data_files=files, split="train")


def estimate_lengths(records: datasets.Dataset) -> list[int]:
    """A rough token count of each record, from its size and the characters of its texts, without decoding pictures."""
    columns: Any = records.select_columns(["width", "height", "qa", "regions"])
    lengths = []
    for row in columns:
        texts = [item["question"] for item in row["qa"] or [] if item]
        texts += [region["text"] for region in row["regions"] or [] if region]
        characters = sum(len(text or "") for text in texts)
        lengths.append(round(rough_tokens((row["width"] or 0) * (row["height"] or 0), characters)))
    return lengths
