# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Batched answers from a FineViT-VL: conversations in, texts out; for the lmms-eval adapter and the command line.

Needs torch and transformers only, so that `finevit ask` runs where lmms-eval is not installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from finevit_vl.processing_finevit_vl import set_pixel_budget

Conversation = list[dict[str, Any]]
"""Messages as `processor.apply_chat_template` takes them; images are `{"type": "image", "image": PIL.Image}`."""


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: The answer without special tokens.
        marked_text: The answer with its special tokens (the box marks among them), without what ends it.
        prompt: The rendered chat template, before image tokens are expanded.
        num_tokens: Generated tokens up to the end token.
    """

    text: str
    marked_text: str
    prompt: str
    num_tokens: int


class AnswerGenerator:
    """A loaded FineViT-VL (or any image-text-to-text model of transformers) and its processor.

    Not an `nn.Module` on purpose: lmms-eval's `lm.clean()` deletes every module attribute of the model object.
    """

    def __init__(self, model: torch.nn.Module, processor: Any) -> None:
        self.model: Any = model.eval()
        self.processor = processor
        self.end_token_ids = _end_token_ids(self.model.generation_config, processor.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        device: str | None = None,
        dtype: str = "auto",
        max_pixels: int | None = None,
        attn_implementation: str | dict[str, str] | None = None,
    ) -> "AnswerGenerator":
        """Load model and processor from a folder.

        Args:
            folder: What `save_pretrained` wrote, or a Hub id.
            device: For instance "cpu" or "cuda:0"; None takes the GPU where there is one.
            dtype: "auto" (as stored), "float32", "bfloat16", ...
            max_pixels: Area in pixels above which pictures are scaled down; None keeps the processor's own.
            attn_implementation: Handed to `from_pretrained`.

        Raises:
            ValueError: The folder lacks files, the Hub does not have or give them, or there is no such device.
        """
        device = usable_device(device)
        extra = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **extra).to(device)
            processor = AutoProcessor.from_pretrained(folder)
        except OSError as error:
            raise ValueError(f"{folder} cannot be loaded: {error}") from error
        if max_pixels is not None:
            set_pixel_budget(processor.image_processor, max_pixels=max_pixels)
        return cls(model, processor)

    @torch.inference_mode()
    def __call__(self, conversations: Sequence[Conversation], **generation_kwargs: Any) -> list[Answer]:
        """Answer a batch of conversations, in their order, with one call of `generate`.

        Args:
            conversations: Messages that end with a user's turn; each may hold any number of images.
            generation_kwargs: Handed to `model.generate`.
        """
        template = self.processor.apply_chat_template
        prompts = [template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
        # The template's own tokenization: a BOS token comes once, whether the template or the tokenizer writes it.
        inputs = template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(**inputs, pad_token_id=self._pad_token_id(), **generation_kwargs)
        new_ids = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._decode(ids, prompt) for ids, prompt in zip(new_ids, prompts, strict=True)]

    def _pad_token_id(self) -> int:
        pad = self.processor.tokenizer.pad_token_id
        return pad if pad is not None else min(self.end_token_ids)

    def _decode(self, ids: list[int], prompt: str) -> Answer:
        ids = ids[: next((i for i, token in enumerate(ids) if token in self.end_token_ids), len(ids))]
        decode = self.processor.tokenizer.decode
        return Answer(
            text=decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            marked_text=decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
            prompt=prompt,
            num_tokens=len(ids),
        )


def usable_device(device: str | None) -> str:
    """The device, or the GPU where there is one and none is named.

    Raises:
        ValueError: this machine has no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device} cannot be used on this machine: {reason}") from error
    return device


def conversation_images(conversation: Conversation) -> list[Image.Image]:
    """Return the pictures of a conversation in reading order."""
    return [
        part["image"]
        for message in conversation
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]


def user_turn(image: Image.Image, text: str) -> Conversation:
    """Return the conversation "one picture, then one question"."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def _end_token_ids(config: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    known = {i for i in (*ids, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
    if not known:
        raise ValueError("Neither generation_config nor the tokenizer names an end token; set eos_token_id.")
    return frozenset(known)
