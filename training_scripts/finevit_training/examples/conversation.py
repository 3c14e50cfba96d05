"""Records to a training batch, fast: one tokenizer call and one image-processor call a batch, no template engine.

The ids and the loss mask are those of `processor.apply_chat_template(..., return_assistant_tokens_mask=True)`; a test
compares them. Loss falls on what the assistant says and on its `<|im_end|>`, never on image tokens.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from finecap.boxes import format_box
from finecap.tasks.conversation import DEFAULT_MIXTURE, Turn, mixture_at, record_to_turns
from finevit_training.data.order import Sample
from finevit_training.data.packing import IGNORE_INDEX, collate_packed, pack_best_fit
from finevit_vl.tokenizer import CHAT_END_TOKEN, CHAT_START_TOKEN, IMAGE_TOKEN, VISION_END_TOKEN, VISION_START_TOKEN

PAD_TO_MULTIPLE_OF = 16  # few shapes: the CPU's bfloat16 kernels are generated, and kept, for each shape

Loaded = tuple[Sample, Image.Image, list[Turn]]


@dataclass
class Example:
    """One conversation about one picture, as ids and patches.

    `labels` equals `input_ids` where the assistant speaks and -100 elsewhere; `turn_ids` is 0 on the picture and what
    stands before it, and the number of the turn, from 1, elsewhere.
    """

    id: str
    epoch: int
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    turn_ids: list[int] = field(default_factory=list)

    def add(self, turn: int, ids: list[int], supervised: bool = False) -> None:
        self.input_ids += ids
        self.labels += ids if supervised else [IGNORE_INDEX] * len(ids)
        self.turn_ids += [turn] * len(ids)


@dataclass
class SFTCollator:
    """Turns `Sample`s into the tensors that FineViT-VL's forward takes.

    Args:
        processor: a FineViTVLProcessor.
        mixture: turn mixture or curriculum, see `finecap.tasks.conversation.record_to_turns` and `mixture_at`.
        seed: the run's seed; the turns of a sample follow from (seed, epoch, index).
        max_turns: at most so many turns a picture.
        max_length: turns that would make a sequence longer than this many tokens are left out; a picture whose first
            turn does not fit is skipped.
        packing: put the batch's samples one after the other into rows of at most max_length tokens, or into a single
            row without max_length, instead of padding them to the longest.
        isolate_turns: let every turn see the picture and itself alone, at the positions it would have as the only
            turn. The loss is then that of separate one-turn samples (how the model is asked in an evaluation: it
            cannot copy an answer from an earlier turn) for the price of one picture. Needs sdpa or eager attention.

    Calling it returns input_ids, labels (rows, length) int64; attention_mask (rows, length) int64, or with
    isolate_turns (rows, 1, length, length) float32, 0 where seen and the lowest float elsewhere, which eager adds
    and sdpa takes as it is; position_ids (rows, length) int64 when packing or isolating;
    pixel_values (patches, channels·patch²) float32; image_grid_thw (images, 3) int64; lengths (images,) int64, each
    sample's tokens; ids, the records' ids; epochs, the pass each record is in; skipped, (id, reason) pairs.

    Raises:
        ValueError: both packing and isolate_turns.
    """

    processor: ProcessorMixin
    mixture: Mapping[str, float] | Sequence[Mapping[str, Any]] = field(default_factory=lambda: dict(DEFAULT_MIXTURE))
    seed: int = 0
    max_turns: int | None = None
    max_length: int | None = None
    packing: bool = False
    isolate_turns: bool = False

    def __post_init__(self) -> None:
        if self.packing and self.isolate_turns:
            raise ValueError("pack_samples and isolate_turns exclude each other; choose one")
        tokenizer = self.processor.tokenizer
        self.encode = partial(tokenizer.backend_tokenizer.encode_batch_fast, add_special_tokens=False)
        self.pad_token_id = tokenizer.pad_token_id
        token_id = tokenizer.convert_tokens_to_ids
        self.image_token_id: int = token_id(IMAGE_TOKEN)
        self.chat_end: int = token_id(CHAT_END_TOKEN)
        self.vision_start, self.vision_end = token_id(VISION_START_TOKEN), token_id(VISION_END_TOKEN)
        user, assistant, self.newline = (e.ids for e in self.encode(["user\n", "assistant\n", "\n"]))
        self.user = [token_id(CHAT_START_TOKEN), *user]
        self.assistant = [token_id(CHAT_START_TOKEN), *assistant]

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        skipped: list[tuple[str, str]] = []
        kept = [item for sample in samples if (item := self._load(sample, skipped))]
        if not kept:
            raise ValueError(f"no sample of this batch can be trained on: {skipped}")
        kept, processed = self._process(kept, skipped)
        grids = processed["image_grid_thw"]
        pictures = processed["pixel_values"].split(grids.prod(-1).tolist())
        texts = [text for _, _, turns in kept for turn in turns for text in (turn.prompt, turn.answer)]
        encoded = iter([encoding.ids for encoding in self.encode(texts)])
        examples = []
        for (sample, _, turns), picture, grid in zip(kept, pictures, grids, strict=True):
            pairs = [(next(encoded), next(encoded)) for _ in turns]
            example = self._assemble(sample, pairs, picture, grid)
            if self.max_length and len(example.input_ids) > self.max_length:
                reason = f"its first turn does not fit: {len(example.input_ids)} tokens, max_length {self.max_length}"
                skipped.append((example.id, reason))
            else:
                examples.append(example)
        if not examples:
            raise ValueError(f"no sample of this batch can be trained on: {skipped}")
        batch = self._pack(examples) if self.packing else self._pad(examples)
        batch["lengths"] = torch.tensor([len(example.input_ids) for example in examples])
        batch["ids"] = [example.id for example in examples]
        batch["epochs"] = [example.epoch for example in examples]
        batch["skipped"] = skipped
        return batch

    def turns(self, sample: Sample, skipped: list[tuple[str, str]] | None = None) -> list[Turn]:
        """The questions and answers of a sample, without those that would write the image token themselves."""
        record_id = sample.record["id"]
        report = None if skipped is None else lambda reason: skipped.append((record_id, reason))
        mixture = mixture_at(self.mixture, sample.key.fraction)
        turns = record_to_turns(
            sample.record, sample.rng(self.seed), format_box, mixture, max_turns=self.max_turns, report=report
        )
        return [turn for turn in turns if IMAGE_TOKEN not in turn.prompt and IMAGE_TOKEN not in turn.answer]

    def _load(self, sample: Sample, skipped: list[tuple[str, str]]) -> Loaded | None:
        turns = self.turns(sample, skipped)
        if not turns:
            skipped.append((sample.record["id"], "nothing can be asked about it with this mixture"))
            return None
        try:
            image = Image.open(io.BytesIO(sample.record["image"]["bytes"]))
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            skipped.append((sample.record["id"], f"picture cannot be decoded: {error}"))
            return None
        return sample, image, turns

    def _process(self, kept: list[Loaded], skipped: list[tuple[str, str]]) -> tuple[list[Loaded], dict[str, Any]]:
        """Patches of all pictures in one call; only where that fails, one by one to find the bad ones."""
        process = self.processor.image_processor
        try:
            return kept, process([image for _, image, _ in kept], return_tensors="pt")
        except ValueError:
            good = []
            for item in kept:
                try:
                    process([item[1]], return_tensors="pt")
                    good.append(item)
                except ValueError as error:
                    skipped.append((item[0].record["id"], f"picture cannot be processed: {error}"))
            if not good:
                raise
            return good, process([image for _, image, _ in good], return_tensors="pt")

    def _assemble(
        self, sample: Sample, pairs: list[tuple[list[int], list[int]]], picture: torch.Tensor, grid: torch.Tensor
    ) -> Example:
        example = Example(sample.record["id"], sample.key.epoch, picture, grid[None])
        image_tokens = [self.image_token_id] * (len(picture) // self.processor.image_processor.merge_size**2)
        example.add(0, [*self.user, self.vision_start, *image_tokens, self.vision_end])
        for turn, (prompt, answer) in enumerate(pairs, start=1):
            # Isolated turns share the first one's opening words.
            opening = [] if turn == 1 or self.isolate_turns else self.newline + self.user
            asked = [*opening, *prompt, self.chat_end, *self.newline, *self.assistant]
            said = [*answer, self.chat_end]
            length = len(example.input_ids) + len(asked) + len(said) + len(self.newline)
            if self.max_length and turn > 1 and length > self.max_length:
                break
            example.add(turn, asked)
            example.add(turn, said, supervised=True)
        example.add(turn, self.newline)
        return example

    def _pad(self, examples: list[Example]) -> dict[str, Any]:
        longest = max(len(example.input_ids) for example in examples)
        longest += -longest % PAD_TO_MULTIPLE_OF

        def rows(field_name: str, filler: int) -> torch.Tensor:
            padded = [getattr(e, field_name) + [filler] * (longest - len(e.input_ids)) for e in examples]
            return torch.tensor(padded)

        batch = {"input_ids": rows("input_ids", self.pad_token_id), "labels": rows("labels", IGNORE_INDEX)}
        turn_ids = rows("turn_ids", -1)
        if self.isolate_turns:
            # Not the boolean mask: eager attention would add its ones and zeros, and nothing would be masked.
            hidden = ~isolated_turns_mask(turn_ids)
            batch["attention_mask"] = hidden * torch.finfo(torch.float32).min
            batch["position_ids"] = isolated_positions(turn_ids)
        else:
            batch["attention_mask"] = (turn_ids >= 0).long()
        batch["pixel_values"] = torch.cat([example.pixel_values for example in examples])
        batch["image_grid_thw"] = torch.cat([example.image_grid_thw for example in examples])
        return batch

    def _pack(self, examples: list[Example]) -> dict[str, Any]:
        samples = [
            {
                "input_ids": torch.tensor(example.input_ids),
                "labels": torch.tensor(example.labels),
                "pixel_values": example.pixel_values,
                "image_grid_thw": example.image_grid_thw,
            }
            for example in examples
        ]
        lengths = [len(example.input_ids) for example in examples]
        rows = pack_best_fit(lengths, self.max_length or sum(lengths))
        return dict(collate_packed([[samples[i] for i in row] for row in rows], self.pad_token_id))


def isolated_turns_mask(turn_ids: torch.Tensor) -> torch.Tensor:
    """Who may look at whom, (rows, 1, length, length) bool: back at the picture and at one's own turn.

    Args:
        turn_ids: (rows, length) int64; 0 on the picture, 1, 2, ... on the turns, -1 on padding.
    """
    asking, seen = turn_ids[:, :, None], turn_ids[:, None, :]
    return (((seen == 0) | (seen == asking)).tril())[:, None]


def isolated_positions(turn_ids: torch.Tensor) -> torch.Tensor:
    """The position of every token, (rows, length) int64, if its turn were the only one."""
    running = torch.arange(turn_ids.shape[1]).expand_as(turn_ids)
    picture = (turn_ids == 0).sum(-1, keepdim=True)
    starts = torch.ones_like(turn_ids, dtype=torch.bool)
    starts[:, 1:] = turn_ids[:, 1:] != turn_ids[:, :-1]
    turn_start = torch.where(starts, running, 0).cummax(-1).values
    return torch.where(turn_ids == 0, running, running - turn_start + picture)
