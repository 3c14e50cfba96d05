"""Rows of the data to pairs of a picture and a caption, for stage II."""

import copy
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from finecap.records import validate_texts
from finecap.sources.rows import Row, Size
from finecap.tasks.captions import DEFAULT_SHARES, choose_caption
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.batch import PairBatch, RegionBatch
from finevit_training.data.order import RowKey
from finevit_training.examples.decoding import decoded, num_patches, patches_of_bytes, size_facts
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
        boxes, region_ids: (regions, 4) float32 and (regions, text_length) int32, of captioned regions.
        tokens: of the caption, without padding.
        size: width and height of the picture.
        budget: number of the picture's budget.
        patches: of the picture.
        left_out: nothing.
    """

    id: str
    epoch: int
    input_ids: np.ndarray
    boxes: np.ndarray
    region_ids: np.ndarray
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
        seed: the run's seed; caption and regions of a row follow from (seed, epoch, copy, id).
        always_full: where a place of a batch stays empty, because a picture cannot be used and nothing takes its
            place, another pair of the batch is repeated. Ranks then have the same number of pairs in every step.
        max_regions: most regions of a picture, drawn from those with a caption or a text.
    """

    remedy: ClassVar[str] = ": pairs need captions, of the kinds that `captions` weighs"

    processor: FineViTDualProcessor
    budgets: Sequence[Budget]
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    seed: int = 0
    always_full: bool = True
    max_regions: int = 0

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
            "max_regions": self.max_regions,
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
        seed = f"{self.seed}/{key.epoch}/{key.copy}/{row.id}"
        caption = choose_caption(row.record, seed, self.shares)
        if caption is None:
            raise UnusableRecord(f"no caption: it has none of {', '.join(self.shares)}", is_bad=False)
        number = next(place for place, one in enumerate(self.budgets) if fraction <= one.until)
        (size,) = row.sizes
        patches = num_patches(self.image_processors[number], size)
        regions = self._regions(row.record, seed)
        ids, *region_ids = self._ids([caption, *(text for _, text in regions)])
        tokens = int((ids != self.processor.tokenizer.pad_token_id).sum())
        boxes = np.array([box for box, _ in regions], dtype=np.float32).reshape(-1, 4)
        of_regions = np.array(region_ids, dtype=np.int32).reshape(-1, len(ids))
        return Draft(row.id, key.epoch, ids, boxes, of_regions, tokens, size, number, patches, [])

    def _ids(self, texts: list[str]) -> np.ndarray:
        # The tokenizer and not the processor, whose checks of its arguments take as long again.
        return np.array(self.processor.tokenizer(texts, **self.processor.text_form)["input_ids"], dtype=np.int32)

    def _regions(self, record: Mapping[str, Any], seed: str) -> list[tuple[list[float], str]]:
        said = [(item["bbox"], item["caption"] or item["text"]) for item in record["regions"] or []]
        captioned = [(box, text) for box, text in said if text and text.strip()]
        return random.Random(f"{seed}/regions").sample(captioned, min(self.max_regions, len(captioned)))

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
            **self._captions([draft.input_ids for draft in drafts]),
            "regions": self._region_batch(drafts) if self.max_regions else None,
            "lengths": torch.tensor([draft.tokens for draft in drafts], dtype=torch.int64),
            "ids": [draft.id for draft in drafts],
            "epochs": [draft.epoch for draft in drafts],
        }

    def _captions(self, texts: Sequence[np.ndarray]) -> Any:
        ids = np.array(texts, dtype=np.int64).reshape(-1, self.processor.text_length)
        fingerprints = [_fingerprint(text) for text in texts]
        return {"input_ids": torch.from_numpy(ids), "caption_ids": torch.tensor(fingerprints, dtype=torch.int64)}

    def _region_batch(self, drafts: Sequence[Draft]) -> RegionBatch:
        counts = torch.tensor([len(draft.boxes) for draft in drafts], dtype=torch.int64)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(draft.boxes for draft in drafts)])
        return {
            **self._captions([ids for draft in drafts for ids in draft.region_ids]),
            "boxes": torch.from_numpy(boxes),
            "image_index": torch.repeat_interleave(counts),
            "image_sizes": torch.tensor([draft.size[::-1] for draft in drafts], dtype=torch.int64).reshape(-1, 2),
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
