"""FineViT-VL as a chat model of lmms-eval: `python -m lmms_eval --model finevit_vl --model_args pretrained=FOLDER`."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from loguru import logger
from PIL import Image
from tqdm import tqdm
from transformers import GenerationConfig

import finevit_vl  # noqa: F401  (registers the classes with Auto*)
from finecap.tasks.length import rough_tokens
from finevit_eval.kept import Kept
from finevit_eval.questions.boxes import answer_for_task
from finevit_eval.questions.resuming import answer_or_recall
from finevit_eval.result import GREY
from finevit_vl.answering import Answer, AnswerGenerator, Conversation, conversation_images

DEFAULT_MAX_NEW_TOKENS = 128
"""For tasks that set none (`refcoco*_bbox_rec_*`, `screenspot_rec_*`, `textvqa`): a box takes about 20 tokens."""
WINDOW = 32
"""Batches whose pictures are decoded together, so that conversations of like length can share a batch."""


@dataclass
class _Request:
    """One request of lmms-eval: its place, and what of its arguments is needed."""

    index: int
    context: str
    doc_to_messages: Any
    gen_kwargs: dict[str, Any]
    doc_id: int
    task: str
    split: str


class FineViTVL(lmms):
    """The adapter that the entry point `lmms_eval.models` names.

    Args:
        pretrained: Folder (or Hub id) of model and processor.
        device: Defaults to the GPU where there is one. Under `accelerate launch` each process takes its own.
        dtype: "auto" (as stored), "float32", "bfloat16", ...
        batch_size: Requests per call of `generate`.
        max_pixels: Area budget of a picture, in pixels; None keeps the processor's.
        attn_implementation: Handed to `from_pretrained`.
        max_new_tokens: For tasks that set none.
        blind: Replace every picture by a mid-grey one of the same size: what is still right was guessed.

    Attributes:
        answers: (task, doc_id) -> the answer as generated, before boxes were rewritten for the task's parser.
        kept: Where answers are kept and looked for, if they are; None at first.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_pixels: int | None = None,
        attn_implementation: str | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        blind: bool = False,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            device = str(self.accelerator.device)
        self.generator = AnswerGenerator.from_pretrained(pretrained, device, dtype, max_pixels, attn_implementation)
        self.batch_size = int(batch_size)
        self.max_new_tokens = max_new_tokens
        self.blind = blind
        self.answers: dict[tuple[str, int], Answer] = {}
        self.kept: Kept | None = None
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected an integer of at least 1.")

    @property
    def device(self) -> torch.device:
        """Where the model lies; lmms-eval gathers counts there."""
        return self.generator.model.device

    def generate_until(  # ty: ignore[incompatible-method-override]  (lmms-eval takes GenerationResult too)
        self, requests: list[Instance]
    ) -> list[GenerationResult]:
        """Answer chat requests in batches; the results stand in the order of the requests."""
        parsed = [_parse(index, request) for index, request in enumerate(requests)]
        results: list[GenerationResult | None] = [None] * len(parsed)
        with tqdm(total=len(parsed), disable=self.rank != 0, desc="Answering") as progress:
            for batch in self._batches(parsed):
                for request, result in self._answer(batch):
                    results[request.index] = result
                    self.cache_hook.add_partial("generate_until", (request.context, request.gen_kwargs), result.text)
                progress.update(len(batch))
        missing = [i for i, result in enumerate(results) if result is None]
        if missing:
            raise RuntimeError(f"{len(missing)} of {len(results)} requests got no answer.")
        return [result for result in results if result is not None]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not available: lmms-eval 0.7.3 runs chat models on generate_* tasks only."""
        raise NotImplementedError("finevit_vl answers generate_until tasks; lmms-eval runs no others on chat models.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not available: no task of this project takes several rounds."""
        raise NotImplementedError("finevit_vl answers generate_until tasks, not multi-round ones.")

    def _batches(self, requests: list[_Request]) -> Iterator[list[tuple[_Request, Conversation]]]:
        """Yield batches of one set of generation arguments each, longest conversations of a window first.

        A window bounds the pictures in memory; inside it, like lengths share a batch and little is padded.
        """
        by_arguments = sorted(requests, key=lambda r: (repr(sorted(r.gen_kwargs.items())), r.index))
        for _, group in groupby(by_arguments, key=lambda r: r.gen_kwargs):
            same = list(group)
            for start in range(0, len(same), WINDOW * self.batch_size):
                window = [(r, self._conversation(r)) for r in same[start : start + WINDOW * self.batch_size]]
                window.sort(key=lambda pair: _length(pair[1]), reverse=True)
                for first in range(0, len(window), self.batch_size):
                    yield window[first : first + self.batch_size]

    def _conversation(self, request: _Request) -> Conversation:
        messages = request.doc_to_messages(self.task_dict[request.task][request.split][request.doc_id])
        chat = ChatMessages(messages=messages)
        _, videos, audios = chat.extract_media()
        if videos or audios:
            raise ValueError(f"Task {request.task} holds video or audio; finevit_vl reads pictures only.")
        conversation = chat.to_hf_messages()
        return blind_conversation(conversation) if self.blind else conversation

    def _answer(self, batch: list[tuple[_Request, Conversation]]) -> Iterator[tuple[_Request, GenerationResult]]:
        gen_kwargs = batch[0][0].gen_kwargs
        conversations = [conversation for _, conversation in batch]
        arguments = self._generation_arguments(gen_kwargs)
        answers = answer_or_recall(self.generator, self.kept, conversations, arguments)
        for (request, conversation), answer in zip(batch, answers, strict=True):
            self.answers[(request.task, request.doc_id)] = answer
            images = conversation_images(conversation)
            boxed = answer_for_task(request.task, answer.marked_text, *images[0].size) if images else None
            text = answer.text if boxed is None else boxed
            counts = TokenCounts(output_tokens=answer.num_tokens)
            yield request, GenerationResult(truncate(text, gen_kwargs.get("until", [])), counts)

    def _generation_arguments(self, gen_kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments = generation_arguments(gen_kwargs)
        return {"max_new_tokens": self.max_new_tokens, **arguments}


def _parse(index: int, request: Instance) -> _Request:
    context, doc_to_messages, gen_kwargs, doc_id, task, split = request.args
    return _Request(index, context, doc_to_messages, dict(gen_kwargs), doc_id, task, split)


def _length(conversation: Conversation) -> float:
    """Rough number of tokens of a conversation."""
    area = sum(image.width * image.height for image in conversation_images(conversation))
    characters = sum(
        len(part["text"]) for message in conversation for part in message["content"] if part["type"] == "text"
    )
    return rough_tokens(area, characters)


def truncate(text: str, until: str | list[str]) -> str:
    """Cut a text before the first of the stop strings (lmms-eval's `until`)."""
    stops = [until] if isinstance(until, str) else until
    cuts = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else text


def generation_arguments(gen_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Turn lmms-eval's generation_kwargs into arguments of `model.generate`.

    Sampling needs a temperature above 0 and `do_sample` not false, as in lmms-eval's own adapters; the arguments of
    sampling are dropped when decoding greedily. Keys that transformers does not know are left out with a warning.
    """
    known = vars(GenerationConfig())
    arguments = {k: v for k, v in gen_kwargs.items() if k in known and v is not None}
    unknown = sorted(set(gen_kwargs) - set(known) - {"until"})
    if unknown:
        logger.warning(f"Generation arguments unknown to transformers are ignored: {', '.join(unknown)}")
    temperature = arguments.get("temperature")
    wants_sampling = arguments.get("do_sample", temperature is not None and temperature > 0)
    arguments["do_sample"] = bool(wants_sampling) and temperature != 0
    if not arguments["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):
            arguments.pop(name, None)
    return arguments


def blind_conversation(conversation: Conversation) -> Conversation:
    """Return the conversation with every picture replaced by mid-grey of the same size."""
    return [
        {
            **message,
            "content": [
                {**part, "image": Image.new("RGB", part["image"].size, GREY)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in conversation
    ]
