"""Rows of the data to pairs of a picture and a caption, for stage II."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from finecap.records import validate_texts
from finecap.sources.rows import Row, Size
from finecap.tasks.captions import DEFAULT_SHARES, choose_caption
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.batch import PairBatch
from finevit_training.data.order import RowKey
from finevit_training.examples.pictures import decoded, num_patches, patches_of_bytes, size_facts
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTDualProcessor


class Budget(NamedTuple):
    """The largest area of a picture up to a point of the training.

    Attributes:
        until: share of the training, at most 1.
        max_pixels: area in pixels.
    """

    until: float
    max_pixels: int


@dataclass
class Draft:
    """A pair without its picture.

    Attributes:
        id, epoch: of the row, and the pass over the data.
        input_ids: (text_length,) int32.
        tokens: of the caption, without padding.
        size: width and height of the picture.
        budget: number of the picture's budget.
        patches: of the picture.
        left_out: nothing.
    """

    id: str
    epoch: int
    input_ids: np.ndarray
    tokens: int
    size: Size
    budget: int
    patches: int
    left_out: list[str]

    def __len__(self) -> int:
        """A pack is a pair."""
        return 1


class Example(NamedTuple):
    """A pair with its picture, upright RGB."""

    draft: Draft
    image: Image.Image


@dataclass
class Pairs:
    """Makes the examples that stage II is trained on.

    Args:
        processor: a FineViTDualProcessor.
        budgets: the picture sizes of the run, in order; the last one lasts until 1.
        shares: of the kinds of captions, see `choose_caption`.
        seed: the run's seed; the caption of a row follows from (seed, epoch, copy, id).
        always_full: where a place of a batch stays empty, because a picture cannot be used and nothing takes its
            place, another pair of the batch is repeated. Ranks then have the same number of pairs in every step.
    """

    processor: FineViTDualProcessor
    budgets: Sequence[Budget]
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    seed: int = 0
    always_full: bool = True

    def __post_init__(self) -> None:
        self.image_processors = []
        for budget in self.budgets:
            self.image_processors.append(copy.deepcopy(self.processor.image_processor))
            set_pixel_budget(self.image_processors[-1], max_pixels=budget.max_pixels)

    def facts(self) -> dict[str, Any]:
        """Everything that decides the drafts of given rows, in values of JSON."""
        tokenizer: Any = self.processor.tokenizer
        return {
            "captions": dict(self.shares),
            "caption_seed": self.seed,
            "text_length": self.processor.text_length,
            "tokenizer_sha256": hashlib.sha256(_without_call_settings(tokenizer).encode()).hexdigest(),
            "image_sizes": [
                [budget.until, size_facts(own)]
                for budget, own in zip(self.budgets, self.image_processors, strict=True)
            ],
        }

    def draft(self, row: Row, key: RowKey, fraction: float) -> Draft:
        """The pair of a row.

        Args:
            fraction: how far the training is, 0 to 1.

        Raises:
            UnusableRecord: the row is broken, or has no caption of the kinds that are asked for.
        """
        if row.record is None:
            raise UnusableRecord("a conversation and no caption", is_bad=False)
        try:
            validate_texts(row.record)
        except ValueError as error:
            raise UnusableRecord(f"record breaks the rules: {error}") from error
        caption = choose_caption(row.record, f"{self.seed}/{key.epoch}/{key.copy}/{row.id}", self.shares)
        if caption is None:
            raise UnusableRecord(f"no caption: it has none of {', '.join(self.shares)}", is_bad=False)
        number = next(place for place, one in enumerate(self.budgets) if fraction <= one.until)
        (size,) = row.sizes
        ids = np.asarray(self.processor(text=caption)["input_ids"][0], dtype=np.int32)
        tokens = int((ids != self.processor.tokenizer.pad_token_id).sum())
        patches = num_patches(self.image_processors[number], size)
        return Draft(row.id, key.epoch, ids, tokens, size, number, patches, [])

    def example(self, draft: Draft, pictures: Sequence[bytes]) -> Example:
        """Decodes the picture of a pair.

        Raises:
            UnusableRecord: it cannot be decoded, or has another size than the row says.
        """
        (data,) = pictures
        return Example(draft, decoded(self.image_processors[draft.budget], data, draft.size))

    def collate(self, rows: Sequence[Sequence[Example]]) -> PairBatch:
        """The batch of some rows, each of one pair or, where it could not be used, of none.

        Raises:
            ValueError: no pair at all in a batch that must be full.
        """
        examples = [example for row in rows for example in row]
        if self.always_full and len(examples) < len(rows):
            if not examples:
                raise ValueError(
                    f"none of the {len(rows)} pictures of a batch can be used; look at `skipped_records.json`, and "
                    "mend the data"
                )
            examples += [examples[place % len(examples)] for place in range(len(rows) - len(examples))]
        drafts = [example.draft for example in examples]
        return {
            **self._pixels(examples),
            "input_ids": torch.from_numpy(np.stack([draft.input_ids for draft in drafts])).long()
            if drafts
            else torch.zeros(0, self.processor.text_length, dtype=torch.int64),
            "caption_ids": torch.tensor([_fingerprint(draft.input_ids) for draft in drafts], dtype=torch.int64),
            "lengths": torch.tensor([draft.tokens for draft in drafts], dtype=torch.int64),
            "ids": [draft.id for draft in drafts],
            "epochs": [draft.epoch for draft in drafts],
        }

    def _pixels(self, examples: Sequence[Example]) -> Any:
        parts = [
            patches_of_bytes(self.image_processors[number], [example.image for example in group])
            for number, group in groupby(examples, key=lambda example: example.draft.budget)
        ] or [patches_of_bytes(self.image_processors[0], [])]
        return {name: torch.cat([part[name] for part in parts]) for name in ("pixel_values", "image_grid_thw")}


def _fingerprint(input_ids: np.ndarray) -> int:
    """A number that captions share if the model sees the same, and else as good as never."""
    digest = hashlib.blake2b(np.ascontiguousarray(input_ids).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _without_call_settings(tokenizer: Any) -> str:
    """The tokenizer as JSON, without what its last call has left in it."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {name: value for name, value in parts.items() if name not in ("truncation", "padding")}
    return json.dumps([parts, tokenizer.special_tokens_map], sort_keys=True)
