"""Rows of the data to conversations about pictures: ids, labels and patches of FineViT-VL's training.

Loss falls on what the assistant says and on its `<|im_end|>`, never on image tokens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from finecap.boxes import format_box
from finecap.records import validate_texts
from finecap.sources.rows import Message, Row
from finecap.tasks.conversation import Report, Turn, record_to_turns
from finecap.tasks.mixture import DEFAULT_MIXTURE, Stages, mixture_at
from finecap.tasks.wording import FIXED_WORDINGS
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.batch import Batch
from finevit_training.data.order import RowKey
from finevit_training.data.packing import lay_out
from finevit_training.examples.chat import ChatEncoder, Ids, control_tokens, messages
from finevit_training.examples.decoding import decoded, num_patches, patches_of_bytes, size_facts
from finevit_vl import FineViTVLProcessor

KEPT_ENCODINGS = 20_000  # short texts whose ids a process keeps: the same questions come again and again


@dataclass
class Draft:
    """A conversation without its pictures.

    Attributes:
        id: of the row.
        epoch: the pass over the data.
        input_ids: (tokens,) int32, one image token for each merged patch.
        labels: (tokens,) int32; the id where the assistant speaks, IGNORE_INDEX elsewhere.
        segments: (segments, 4) int32, see `Batch`; counted from this conversation's first token.
        sizes: width and height of each picture.
        patches: of all pictures.
        left_out: why parts of the row are not asked about.
    """

    id: str
    epoch: int
    input_ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    sizes: list[tuple[int, int]]
    patches: int
    left_out: list[str]

    def __len__(self) -> int:
        return len(self.input_ids)


class Example(NamedTuple):
    """A conversation with its pictures, upright RGB; large JPEGs have been reduced to what the model sees."""

    draft: Draft
    images: list[Image.Image]


@dataclass
class Conversations:
    """Makes the examples that FineViT-VL is trained on.

    Args:
        processor: a FineViTVLProcessor.
        max_length: tokens of a row. Turns that would make a conversation longer are left out; one whose first turn
            does not fit is not used.
        mixture: turn mixture or curriculum, see `finecap.tasks`' `record_to_turns` and `mixture_at`.
        seed: the run's seed; the turns of a record follow from (seed, epoch, id).
        max_turns: most turns of a record.
        isolate_turns: each turn of a record attends to the picture and to itself, not to other turns, and gets the
            position ids it would have if it were alone. The loss equals that of one sample per turn, as in evaluation,
            but the picture is encoded once. Ready conversations stay as they are.
        wordings: of the dense tasks' prompts, see `load_wordings`; the fixed ones without it.

    Raises:
        ValueError: a wording holds one of the tokenizer's special tokens.
    """

    remedy: ClassVar[str] = ", or give a mixture whose tasks fit it: of captions global_caption makes turns"

    processor: FineViTVLProcessor
    max_length: int
    mixture: Stages = field(default_factory=lambda: dict(DEFAULT_MIXTURE))
    seed: int = 0
    max_turns: int | None = None
    isolate_turns: bool = False
    wordings: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        self.control_tokens = control_tokens(self.processor.tokenizer)
        for wording in (one for of_task in (self.wordings or {}).values() for one in of_task):
            if found := self.control_tokens.search(wording):
                raise ValueError(f"the wording {wording!r} holds the special token {found.group()!r}; leave it out")
        self.chat = ChatEncoder(self.processor.tokenizer, str(self.processor.chat_template))
        self._kept = lru_cache(KEPT_ENCODINGS)(self._encode_turn)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._kept = lru_cache(KEPT_ENCODINGS)(self._encode_turn)

    def facts(self) -> dict[str, Any]:
        """Everything that decides the drafts of given rows, in values of JSON."""
        return {
            "max_length": self.max_length,
            "mixture": self.mixture,
            "question_seed": self.seed,
            "max_turns": self.max_turns,
            "isolate_turns": self.isolate_turns,
            "wordings": self.wordings or {task: [fixed] for task, fixed in FIXED_WORDINGS.items()},
            "tokenizer_sha256": self._tokenizer_hash(),
            "image_sizes": size_facts(self.processor.image_processor),
        }

    def _tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer and the chat template."""
        tokenizer: Any = self.processor.tokenizer
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        parts = {name: value for name, value in parts.items() if name not in ("truncation", "padding")}
        whole = [parts, tokenizer.special_tokens_map, self.processor.chat_template]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def draft(self, row: Row, key: RowKey, fraction: float) -> Draft:
        """The conversation of a row.

        Args:
            fraction: how far the training is, 0 to 1.

        Raises:
            UnusableRecord: the row is broken, nothing can be asked about it, or its first turn is too long.
        """
        patches = [num_patches(self.processor.image_processor, size) for size in row.sizes]
        tokens = [count // self.processor.image_processor.merge_size**2 for count in patches]
        left_out: list[str] = []
        if row.messages is not None:
            ids, segments = self._whole(self._checked(row.messages), tokens)
        else:
            turns = self.turns(row, key, fraction, left_out.append)
            whole = not self.isolate_turns
            ids, segments = self._whole(messages(turns), tokens) if whole else self._isolated(turns, tokens)
        return Draft(row.id, key.epoch, *ids, segments, row.sizes, sum(patches), left_out)

    def example(self, draft: Draft, pictures: Sequence[bytes]) -> Example:
        """Decodes the pictures of a conversation.

        Raises:
            UnusableRecord: one of them cannot be decoded, or has another size than the row says.
        """
        image_processor = self.processor.image_processor
        pairs = zip(pictures, draft.sizes, strict=True)
        return Example(draft, [decoded(image_processor, data, size) for data, size in pairs])

    def collate(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """The batch of some rows, each at most `max_length` tokens."""
        examples = [example for row in rows for example in row]
        tensors: Any = lay_out(
            [[example.draft for example in row] for row in rows],
            self.max_length,
            self.processor.tokenizer.pad_token_id,
        )
        images = [image for example in examples for image in example.images]
        pixels: Any = patches_of_bytes(self.processor.image_processor, images)
        batch: Batch = {
            **tensors,
            **pixels,
            "lengths": torch.tensor([len(example.draft) for example in examples], dtype=torch.int64),
            "ids": [example.draft.id for example in examples],
            "epochs": [example.draft.epoch for example in examples],
        }
        return batch

    def turns(self, row: Row, key: RowKey, fraction: float, report: Report | None = None) -> list[Turn]:
        """The questions and answers about a record; what has to be left out of it is reported.

        Raises:
            UnusableRecord: the record is broken, or there is nothing to ask.
        """
        record: Any = row.record
        try:
            validate_texts(record)
        except ValueError as error:
            raise UnusableRecord(f"record breaks the rules: {error}") from error
        turns = record_to_turns(
            record,
            f"{self.seed}/{key.epoch}/{key.copy}/{row.id}",
            format_box,
            mixture_at(self.mixture, fraction),
            max_turns=self.max_turns,
            report=report,
            control_tokens=self.control_tokens,
            wordings=self.wordings,
        )
        if not turns:
            has = ", ".join(name for name in ("global_caption", "regions", "qa") if record[name]) or "no words"
            raise UnusableRecord(f"nothing can be asked about it with this mixture (it has {has})", is_bad=False)
        return turns

    def _isolated(self, turns: list[Turn], tokens: list[int]) -> tuple[Ids, np.ndarray]:
        """Every turn as a conversation of its own, with the picture and what stands before it written once."""
        parts, segments, length = [], [], 0
        for turn in turns:
            ids, start = self._kept(turn.prompt, turn.answer)
            if not parts:
                picture = self._expanded(Ids(ids.input_ids[:start], ids.labels[:start]), tokens)
                parts, length = [picture], len(picture.input_ids)
                segments.append((0, length, 0, 0))
            size = len(ids.input_ids) - start
            if length + size > self.max_length:
                break
            parts.append(Ids(ids.input_ids[start:], ids.labels[start:]))
            segments.append((length, size, 0, segments[0][1]))
            length += size
        if len(parts) == 1:
            raise too_long("its first turn does not fit", length + size, self.max_length)
        joined = Ids(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        return joined, np.array(segments, dtype=np.int32)

    def _checked(self, conversation: list[Message]) -> list[Message]:
        """A conversation of the data, whose words may hold none of the tokenizer's special tokens; the pieces of a
        turn are written one behind the other.
        """
        for message in conversation:
            for _, pieces in groupby(message["content"], key=itemgetter("type")):
                if found := self.control_tokens.search("".join(piece.get("text", "") for piece in pieces)):
                    raise UnusableRecord(f"a special token stands in the data: {found.group()!r}")
        return conversation

    def _whole(self, conversation: Sequence[Any], tokens: list[int]) -> tuple[Ids, np.ndarray]:
        """One conversation, without the last turns if it is too long with them; pictures are never cut."""
        ends = [
            place + 1
            for place, message in enumerate(conversation)
            if message["role"] == "assistant" and message.get("trained", True)
        ]
        if not ends:
            raise UnusableRecord("nobody answers in this conversation")
        length = 0
        for end in reversed(ends):
            part = conversation[:end]
            shown = sum(piece["type"] == "image" for message in part for piece in message["content"])
            if shown < len(tokens):
                break  # a picture of a turn that is left out would have no place
            ids = self._expanded(self.chat.encode(part), tokens)
            length = len(ids.input_ids)
            if length <= self.max_length:
                return ids, np.array([(0, length, 0, 0)], dtype=np.int32)
        if not length:
            raise UnusableRecord("a picture is shown and nobody answers after it")
        raise too_long("its first turns do not fit", length, self.max_length)

    def _encode_turn(self, prompt: str, answer: str) -> tuple[Ids, int]:
        """The ids of a turn about one picture, with a single image token, and where they go on after the picture."""
        ids = self.chat.encode(messages([Turn(prompt, answer, "")]))
        return ids, ids.input_ids.tolist().index(self.processor.vision_end_token_id) + 1

    def _expanded(self, ids: Ids, tokens: list[int]) -> Ids:
        """Every image token written as often as its picture has merged patches."""
        repeats = np.ones(len(ids.input_ids), dtype=np.int64)
        repeats[ids.input_ids == self.processor.image_token_id] = tokens
        return Ids(np.repeat(ids.input_ids, repeats), np.repeat(ids.labels, repeats))


def too_long(what: str, tokens: int, max_length: int) -> UnusableRecord:
    """The reason of a conversation that is longer than a row."""
    return UnusableRecord(f"{what}: {tokens} tokens, max_length {max_length}", is_bad=False)
