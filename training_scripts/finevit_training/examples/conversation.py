"""Records to a training batch: what is asked about each picture, as ids, labels and patches.

The processor's chat template is rendered and tokenized as `processor.apply_chat_template` does it, so ids and loss
mask are its ids and `assistant_masks` with any tokenizer; a test compares them. Loss falls on what the assistant says
and on its `<|im_end|>`, never on image tokens.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finecap.boxes import format_box
from finecap.pictures import BadPicture, open_rgb
from finecap.records import validate_record
from finecap.tasks.conversation import Turn, record_to_turns
from finecap.tasks.mixture import DEFAULT_MIXTURE, mixture_at
from finevit_training.data.bad_records import BadRecordShare, UnusableRecord, reason_kind
from finevit_training.data.batch import Batch
from finevit_training.data.packing import IGNORE_INDEX, collate_packed, pack_best_fit
from finevit_training.data.source import Sample
from finevit_vl import FineViTVLProcessor

PAD_TO_MULTIPLE_OF = 16  # few shapes: the CPU's bfloat16 kernels are generated, and kept, for each shape

Skipped = list[tuple[str, str]]


@dataclass
class Example:
    """One conversation about one picture.

    Attributes:
        id: of the record.
        epoch: the pass over the data.
        image: the whole picture, upright RGB.
        input_ids: ids of the rendered conversation, one image token for each merged patch.
        labels: as long; the id where the assistant speaks, IGNORE_INDEX elsewhere.
        turn_ids: as long; 0 on the picture and what stands before it, and with isolated turns the number of the turn,
            from 1, elsewhere.
    """

    id: str
    epoch: int
    image: Image.Image
    input_ids: list[int]
    labels: list[int]
    turn_ids: list[int]


class Ids(NamedTuple):
    """A tokenized conversation: ids and labels, equally long."""

    input_ids: list[int]
    labels: list[int]


@dataclass
class SFTCollator:
    """Turns `Sample`s into the tensors that FineViT-VL is trained on, see `Batch`.

    A record that cannot be used (broken, or nothing can be asked about it) is skipped, reported with its id and
    reason, and replaced by another one, which follows from (seed, epoch, index).

    Args:
        processor: a FineViTVLProcessor.
        mixture: turn mixture or curriculum, see `finecap.tasks`' `record_to_turns` and `mixture_at`.
        seed: the run's seed; the turns of a sample follow from (seed, epoch, index).
        max_turns: most turns of a picture.
        max_length: turns that would make a sequence longer than this many tokens are left out; a picture whose first
            turn does not fit is skipped.
        packing: put the batch's samples one after the other into rows of at most max_length tokens, or into a single
            row without max_length, instead of padding them to the longest.
        single_row: when packing, make one row whatever max_length, as `may_pack_rows` demands of some attentions.
        isolate_turns: each turn attends to the picture and to itself, not to other turns, and gets the position ids
            it would have if it were alone. The loss equals that of one sample per turn, as in evaluation, but the
            picture is encoded once. Needs sdpa or eager attention.
        max_bad_share: the run stops when more than this share of the records that a loader process has read is
            broken. Records that are sound but do not fit the mixture or max_length do not count.
        bad_share_after: records that a loader process reads before it looks at that share.

    Raises:
        ValueError: both packing and isolate_turns.
    """

    processor: FineViTVLProcessor
    mixture: Mapping[str, float] | Sequence[Mapping[str, Any]] = field(default_factory=lambda: dict(DEFAULT_MIXTURE))
    seed: int = 0
    max_turns: int | None = None
    max_length: int | None = None
    packing: bool = False
    single_row: bool = False
    isolate_turns: bool = False
    max_bad_share: float = 0.5
    bad_share_after: int = 200

    def __post_init__(self) -> None:
        if self.packing and self.isolate_turns:
            raise ValueError("pack_samples and isolate_turns exclude each other; choose one")
        self.control_tokens = control_tokens(self.processor.tokenizer)
        self.bad_records = BadRecordShare(self.max_bad_share, self.bad_share_after)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch of as many examples as there are samples.

        Raises:
            ValueError: too many records are broken, or nothing that could replace one was found.
        """
        skipped: Skipped = []
        examples = [self.usable_example(sample, skipped) for sample in samples]
        processed = self.processor.image_processor([example.image for example in examples], return_tensors="pt")
        tensors: Any = (self._pack if self.packing else self._pad)(examples, processed)
        batch: Batch = {
            **tensors,
            "lengths": torch.tensor([len(example.input_ids) for example in examples]),
            "ids": [example.id for example in examples],
            "epochs": [example.epoch for example in examples],
            "skipped": skipped,
        }
        return batch

    def usable_example(self, sample: Sample, skipped: Skipped) -> Example:
        """The example of a sample, or of the first of its replacements that can be used.

        Args:
            sample: a record and its key.
            skipped: gets (id, reason) of every record and part of a record that is left out.

        Raises:
            ValueError: see `__call__`.
        """
        reasons = []
        for candidate in self._candidates(sample):
            try:
                example = self.example(candidate, skipped)
            except UnusableRecord as error:
                reasons.append(str(error))
                skipped.append((str(candidate.record["id"]), str(error)))
                self.bad_records.add(error)
            else:
                self.bad_records.add(None)
                return example
        kinds = sorted({reason_kind(reason) for reason in reasons})
        raise ValueError(
            f"record {sample.record['id']!r} cannot be trained on and {len(reasons) - 1} others drawn in its place "
            f"cannot either: {kinds}; the first: {reasons[0]}. Mend the data, or give a mixture whose tasks fit it"
        )

    def _candidates(self, sample: Sample) -> Iterator[Sample]:
        yield sample
        yield from sample.replacements(self.seed)

    def example(self, sample: Sample, skipped: Skipped) -> Example:
        """The example of one sample; a picture is decoded only when everything else about the record is right.

        Raises:
            UnusableRecord: the record is broken, nothing can be asked about it, or its first turn is too long.
        """
        record = sample.record
        try:
            validate_record(record)
        except ValueError as error:
            raise UnusableRecord(f"record breaks the rules: {error}") from error
        turns = self.turns(sample, skipped)
        if not turns:
            raise UnusableRecord("nothing can be asked about it with this mixture", is_bad=False)
        size = record["width"], record["height"]
        image_processor = self.processor.image_processor
        try:
            patches = image_processor.get_number_of_image_patches(size[1], size[0])
        except ValueError as error:
            raise UnusableRecord(f"picture cannot be processed: {error}") from error
        ids, turn_ids = self._tokenize(turns, patches // image_processor.merge_size**2)
        if self.max_length and len(ids.input_ids) > self.max_length:
            reason = f"its first turn does not fit: {len(ids.input_ids)} tokens, max_length {self.max_length}"
            raise UnusableRecord(reason, is_bad=False)
        try:
            image = open_rgb(record["image"]["bytes"], image_processor.max_image_pixels)
        except BadPicture as error:
            raise UnusableRecord(f"picture cannot be decoded: {error}") from error
        if image.size != size:
            raise UnusableRecord(
                f"picture has another size than the record says: {image.width}x{image.height} upright, and not "
                f"{size[0]}x{size[1]}, so its boxes would be wrong"
            )
        return Example(record["id"], sample.key.epoch, image, *ids, turn_ids)

    def turns(self, sample: Sample, skipped: Skipped | None = None) -> list[Turn]:
        """The questions and answers of a sample; what had to be left out is added to `skipped`."""
        record_id = sample.record["id"]
        report = None if skipped is None else lambda reason: skipped.append((record_id, reason))
        return record_to_turns(
            sample.record,
            sample.stream(self.seed),
            format_box,
            mixture_at(self.mixture, sample.key.fraction),
            max_turns=self.max_turns,
            report=report,
            control_tokens=self.control_tokens,
        )

    def _tokenize(self, turns: list[Turn], image_tokens: int) -> tuple[Ids, list[int]]:
        """Ids, labels and turn numbers of the turns that fit into max_length, of the first one in any case."""
        if self.isolate_turns:
            return self._isolated(turns, image_tokens)
        for number in range(len(turns), 0, -1):
            ids = self._encode([turns[:number]], image_tokens)[0]
            if not self.max_length or len(ids.input_ids) <= self.max_length:
                break
        return ids, [0] * len(ids.input_ids)

    def _isolated(self, turns: list[Turn], image_tokens: int) -> tuple[Ids, list[int]]:
        """Every turn as a conversation of its own, with the picture and what stands before it written once."""
        conversations = self._encode([[turn] for turn in turns], image_tokens)
        start = conversations[0].input_ids.index(self.processor.vision_end_token_id) + 1
        ids = Ids(conversations[0].input_ids[:start], conversations[0].labels[:start])
        turn_ids = [0] * start
        for number, one in enumerate(conversations, start=1):
            if self.max_length and number > 1 and len(turn_ids) + len(one.input_ids) - start > self.max_length:
                break
            ids.input_ids.extend(one.input_ids[start:])
            ids.labels.extend(one.labels[start:])
            turn_ids.extend([number] * (len(one.input_ids) - start))
        return ids, turn_ids

    def _encode(self, conversations: list[list[Turn]], image_tokens: int) -> list[Ids]:
        """Conversations about one picture as `apply_chat_template` encodes them."""
        tokenizer: Any = self.processor.tokenizer
        template: Any = self.processor.chat_template
        texts, spoken = render_jinja_template(
            conversations=[messages(turns) for turns in conversations],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
        # A template that writes the first token itself must not get it twice.
        bos = {"add_special_tokens": False} if tokenizer.bos_token and texts[0].startswith(tokenizer.bos_token) else {}
        encoded = tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, **bos)
        return [
            self._expand(ids, _supervised(offsets, spans), image_tokens)
            for ids, offsets, spans in zip(encoded["input_ids"], encoded["offset_mapping"], spoken, strict=True)
        ]

    def _expand(self, ids: list[int], supervised: np.ndarray, image_tokens: int) -> Ids:
        labels = np.where(supervised, ids, IGNORE_INDEX).tolist()
        place = ids.index(self.processor.image_token_id)
        return Ids(
            [*ids[:place], *[ids[place]] * image_tokens, *ids[place + 1 :]],
            [*labels[:place], *[IGNORE_INDEX] * image_tokens, *labels[place + 1 :]],
        )

    def _pad(self, examples: list[Example], processed: Mapping[str, Any]) -> dict[str, Any]:
        longest = max(len(example.input_ids) for example in examples)
        longest += -longest % PAD_TO_MULTIPLE_OF

        def rows(field_name: str, filler: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            padded = [getattr(e, field_name) + [filler] * (longest - len(e.input_ids)) for e in examples]
            return torch.tensor(padded, dtype=dtype)

        batch = {
            "input_ids": rows("input_ids", self.processor.tokenizer.pad_token_id),
            "labels": rows("labels", IGNORE_INDEX),
            "pixel_values": processed["pixel_values"],
            "image_grid_thw": processed["image_grid_thw"],
        }
        turn_ids = rows("turn_ids", -1, torch.int16)
        return batch | ({"turn_ids": turn_ids} if self.isolate_turns else {"attention_mask": (turn_ids >= 0).long()})

    def _pack(self, examples: list[Example], processed: Mapping[str, Any]) -> dict[str, Any]:
        grids = processed["image_grid_thw"]
        pictures = processed["pixel_values"].split(grids.prod(-1).tolist())
        samples = [
            {
                "input_ids": torch.tensor(example.input_ids),
                "labels": torch.tensor(example.labels),
                "pixel_values": picture,
                "image_grid_thw": grid[None],
            }
            for example, picture, grid in zip(examples, pictures, grids, strict=True)
        ]
        lengths = [len(example.input_ids) for example in examples]
        longest = sum(lengths) if self.single_row or not self.max_length else self.max_length
        rows = pack_best_fit(lengths, longest)
        pad_token_id = self.processor.tokenizer.pad_token_id
        return dict(collate_packed([[samples[i] for i in row] for row in rows], pad_token_id))


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns about one picture as `apply_chat_template` takes them; the picture comes before the first question."""
    conversation = []
    for number, turn in enumerate(turns):
        picture = [] if number else [{"type": "image"}]
        conversation += [
            {"role": "user", "content": [*picture, {"type": "text", "text": turn.prompt}]},
            {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]},
        ]
    return conversation


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds in a text whatever the tokenizer would read as one of its special tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(re.escape(token) for token in tokens))


def _supervised(offsets: Any, spans: Any) -> np.ndarray:
    """Which tokens overlap what the assistant says.

    Args:
        offsets: (first, last + 1) character of each token.
        spans: the same of each text between the template's generation marks.
    """
    starts, ends = np.asarray(offsets).T
    supervised = np.zeros(len(starts), dtype=bool)
    for start, end in spans:
        supervised |= (starts < end) & (ends > start)
    return supervised
