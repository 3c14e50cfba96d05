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

from finecap.loading import DEFAULT_MIXTURE, Turn, mixture_at, record_to_turns
from finevit_vl.grounding import format_box
from finevit_vl.tokenizer import CHAT_END_TOKEN, CHAT_START_TOKEN, IMAGE_TOKEN, VISION_END_TOKEN, VISION_START_TOKEN
from finevit_vl.training.data import Sample

IGNORE_INDEX = -100


@dataclass
class Example:
    """One conversation about one picture, as ids.

    `labels` equals `input_ids` where the assistant speaks and -100 elsewhere; `num_image_tokens` of the ids are image tokens.
    """

    id: str
    input_ids: list[int]
    labels: list[int]
    num_image_tokens: int


@dataclass
class SFTCollator:
    """Turns `Sample`s into the tensors that FineViT-VL's forward takes.

    Args:
        processor: a FineViTVLProcessor.
        mixture: turn mixture or curriculum, see `finecap.loading.record_to_turns` and `mixture_at`.
        seed: the run's seed; the turns of a sample follow from (seed, epoch, index).
        max_turns: at most so many turns a picture.
        max_length: turns that would make a sequence longer than this many tokens are left out; a picture whose first turn
            does not fit is skipped.
        packing: put the batch's samples one after the other into a single row instead of padding them to the longest.

    Calling it returns input_ids, labels (rows, length) int64; attention_mask (rows, length) int64, or when packing
    position_ids (1, length) int64 that restart at every sample; pixel_values (patches, channels·patch²) float32;
    image_grid_thw (images, 3) int64; ids, the records' ids; epochs, the pass each record is in; skipped, (id, reason) pairs.
    """

    processor: ProcessorMixin
    mixture: Mapping[str, float] | Sequence[Mapping[str, Any]] = field(default_factory=lambda: dict(DEFAULT_MIXTURE))
    seed: int = 0
    max_turns: int | None = None
    max_length: int | None = None
    packing: bool = False

    def __post_init__(self) -> None:
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
        processed = self.processor.image_processor([image for _, image, _ in kept], return_tensors="pt")
        merge = self.processor.image_processor.merge_size**2
        image_tokens = (processed["image_grid_thw"].prod(-1) // merge).tolist()
        texts = [text for _, _, turns in kept for turn in turns for text in (turn.prompt, turn.answer)]
        encoded = iter([encoding.ids for encoding in self.encode(texts)])
        examples = []
        for (sample, _, turns), num_image_tokens in zip(kept, image_tokens, strict=True):
            pairs = [(next(encoded), next(encoded)) for _ in turns]
            examples.append(self._assemble(sample.record["id"], pairs, num_image_tokens))
        batch = self._pack(examples) if self.packing else self._pad(examples)
        batch["pixel_values"] = processed["pixel_values"]
        batch["image_grid_thw"] = processed["image_grid_thw"]
        batch["ids"] = [example.id for example in examples]
        batch["epochs"] = [sample.key.epoch for sample, _, _ in kept]
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

    def _load(self, sample: Sample, skipped: list[tuple[str, str]]) -> tuple[Sample, Image.Image, list[Turn]] | None:
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

    def _assemble(self, record_id: str, pairs: list[tuple[list[int], list[int]]], num_image_tokens: int) -> Example:
        picture = [self.vision_start, *[self.image_token_id] * num_image_tokens, self.vision_end]
        input_ids: list[int] = []
        labels: list[int] = []
        for number, (prompt, answer) in enumerate(pairs):
            asked = [*self.user, *(picture if number == 0 else []), *prompt, self.chat_end, *self.newline, *self.assistant]
            said = [*answer, self.chat_end]
            length = len(input_ids) + len(asked) + len(said) + len(self.newline)
            if self.max_length and length > self.max_length and number:
                break
            input_ids += asked + said + self.newline
            labels += [IGNORE_INDEX] * len(asked) + said + [IGNORE_INDEX] * len(self.newline)
        return Example(record_id, input_ids, labels, num_image_tokens)

    def _pad(self, examples: list[Example]) -> dict[str, Any]:
        longest = max(len(example.input_ids) for example in examples)
        input_ids = torch.full((len(examples), longest), self.pad_token_id)
        labels = torch.full((len(examples), longest), IGNORE_INDEX)
        attention_mask = torch.zeros((len(examples), longest), dtype=torch.long)
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            input_ids[row, :length] = torch.tensor(example.input_ids)
            labels[row, :length] = torch.tensor(example.labels)
            attention_mask[row, :length] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}

    def _pack(self, examples: list[Example]) -> dict[str, Any]:
        raise NotImplementedError
