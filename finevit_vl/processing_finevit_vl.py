# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Processor of FineViT-VL: pictures and chat text in, packed patches and token ids out."""

from importlib import resources
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import MultiModalData, ProcessorMixin

from finevit_vl.tokenizer import IMAGE_TOKEN, VISION_END_TOKEN, VISION_START_TOKEN, add_missing_tokens


def load_chat_template() -> str:
    """The ChatML template with `{% generation %}` marks around the assistant's words and their `<|im_end|>`."""
    return resources.files("finevit_vl").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def set_pixel_budget(image_processor: Any, min_pixels: int | None = None, max_pixels: int | None = None) -> None:
    """Give an image processor of the Qwen family (ours among them) another budget for the area of a resized picture.

    Args:
        image_processor: changed in place.
        min_pixels, max_pixels: areas in pixels; None keeps the processor's own.

    Raises:
        ValueError: the smallest area is above the largest.
    """
    size = dict(image_processor.size)
    areas = {
        "shortest_edge": size["shortest_edge"] if min_pixels is None else min_pixels,
        "longest_edge": size["longest_edge"] if max_pixels is None else max_pixels,
    }
    if areas["longest_edge"] < areas["shortest_edge"]:
        raise ValueError(
            f"max_pixels={areas['longest_edge']} is under the processor's smallest area of {areas['shortest_edge']} "
            "pixels; give a larger max_pixels, or a smaller min_pixels."
        )
    image_processor.size = type(image_processor.size)(**{**size, **areas})


class FineViTVLProcessor(ProcessorMixin):
    r"""
    Wraps a [`FineViTImageProcessor`] and a tokenizer. Every `<|image_pad|>` in the text stands for one picture and is
    written out to one token per merged patch (28 x 28 pixels after resizing).

    Args:
        image_processor (`FineViTImageProcessor`):
            Gives `pixel_values` of shape `(sum of patches, 3 * 14 * 14)` and `image_grid_thw` of shape `(images, 3)`.
        tokenizer (`PreTrainedTokenizerBase`):
            Must know `<|image_pad|>`, `<|vision_start|>` and `<|vision_end|>`; see `add_missing_tokens`.
        chat_template (`str`, *optional*):
            Defaults to FineViT-VL's own template (`load_chat_template`).
    """

    return_mm_token_type_ids = False
    text_kwargs = {"return_token_type_ids": False}  # noqa: RUF012

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = IMAGE_TOKEN
        self.vision_start_token = VISION_START_TOKEN
        self.vision_end_token = VISION_END_TOKEN
        if tokenizer is None:
            raise ValueError("FineViTVLProcessor needs a tokenizer: pass tokenizer=...")
        vocab = tokenizer.get_vocab()
        lacking = [token for token in (IMAGE_TOKEN, VISION_START_TOKEN, VISION_END_TOKEN) if token not in vocab]
        if lacking:
            raise ValueError(
                f"The tokenizer lacks {', '.join(lacking)}: build the processor with "
                "FineViTVLProcessor.from_vision_text_pretrained, or call add_missing_tokens(tokenizer) first."
            )
        self.image_token_id = vocab[IMAGE_TOKEN]
        self.vision_start_token_id = vocab[VISION_START_TOKEN]
        self.vision_end_token_id = vocab[VISION_END_TOKEN]
        chat_template = load_chat_template() if chat_template is None else chat_template
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Path | BaseImageProcessor,
        text: str | Path | PreTrainedTokenizerBase,
    ) -> "FineViTVLProcessor":
        """The processor for a model built from a FineViT and a language model.

        Args:
            vision: folder (or Hub id) of a FineViT with its image processor, or a live image processor.
            text: folder (or Hub id) of a language model's tokenizer, or a live tokenizer (changed in place).

        The tokenizer gets the image, box and ChatML tokens it lacks; hand the processor to
        `FineViTVLForConditionalGeneration.from_vision_text_pretrained`, which grows the embedding to match.
        """
        image_processor = AutoImageProcessor.from_pretrained(vision) if isinstance(vision, str | Path) else vision
        tokenizer: Any = AutoTokenizer.from_pretrained(text) if isinstance(text, str | Path) else text
        add_missing_tokens(tokenizer)
        tokenizer.padding_side = "left"
        # A chat template of the language model's own, saved beside ours, would be what text-only tools pick up.
        tokenizer.chat_template = load_chat_template()
        return cls(image_processor=image_processor, tokenizer=tokenizer)

    def apply_chat_template(self, *args: Any, return_assistant_tokens_mask: bool = False, **kwargs: Any) -> Any:
        """As in the base class.

        Raises:
            ValueError: a message holds something else than texts and images (transformers would fetch sounds and
                videos before the template refuses them), or masks are asked for from a transformers that does not
                count the image tokens when it places them (5.17); they would mark the wrong tokens.
        """
        _check_parts(args[0] if args else kwargs.get("conversation"))
        if return_assistant_tokens_mask and not hasattr(ProcessorMixin, "_adjust_assistant_masks_indices"):
            raise ValueError(
                f"transformers {transformers.__version__} misplaces assistant masks behind pictures: use 5.23."
            )
        return super().apply_chat_template(*args, return_assistant_tokens_mask=return_assistant_tokens_mask, **kwargs)

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """As in the base class; `images=[[], []]` (a batch of text-only samples) counts as no pictures."""
        if isinstance(images, list | tuple) and not any(
            len(item) if isinstance(item, list | tuple) else item is not None for item in images
        ):
            images = None
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """As in the base class, and each text must hold as many `<|image_pad|>` as it is given pictures.

        Raises:
            ValueError: the counts differ, naming the first text for which they do.
        """
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)
        if text is None:
            return
        placeholders = [sample.count(self.image_token) for sample in text]
        nested = isinstance(images, list | tuple) and any(isinstance(item, list | tuple) for item in images)
        if nested and len(images) != len(text):
            raise ValueError(
                f"Got {len(text)} texts but pictures for {len(images)}: pass one list of pictures a text."
            )
        if nested:
            for row, (expected, pictures) in enumerate(zip(placeholders, images, strict=True)):
                if expected != len(pictures):
                    raise ValueError(
                        f"Text {row} holds {expected} {self.image_token} placeholders but comes with {len(pictures)} "
                        "pictures: write one placeholder a picture (the chat template does)."
                    )
        flat: Any = [] if images is None else make_flat_list_of_images(images)
        num_images = len(flat)
        if sum(placeholders) != num_images:
            raise ValueError(
                f"The texts hold {sum(placeholders)} {self.image_token} placeholders but {num_images} pictures were "
                "passed: write one placeholder a picture (the chat template does)."
            )

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """`<|image_pad|>` once per merged patch of picture `image_idx`."""
        merge_length = self.image_processor.merge_size**2
        return self.image_token * (int(image_inputs["image_grid_thw"][image_idx].prod()) // merge_length)

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens and patches for pictures of the given `(height, width)` in pixels; vLLM plans its memory with it."""
        if image_sizes is None:
            return MultiModalData()
        images_kwargs = dict(kwargs.get("images_kwargs", kwargs))
        patches = [self.image_processor.get_number_of_image_patches(*size, images_kwargs) for size in image_sizes]
        merge_length = self.image_processor.merge_size**2
        return MultiModalData(num_image_tokens=[n // merge_length for n in patches], num_image_patches=patches)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Decode generated ids `(batch, length)`. Box tokens are special in Qwen's vocabulary and are dropped with
        `skip_special_tokens=True`; `finecap.boxes.parse_boxes` reads the coordinates either way."""
        return self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)


def _check_parts(conversation: Any) -> None:
    """Refuses parts of messages (in a conversation, or a batch of them) that are neither text nor image."""
    for message in conversation or ():
        if isinstance(message, list | tuple):
            _check_parts(message)
            continue
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else ():
            if part.get("type") not in ("text", "image", "image_url"):
                raise ValueError(f'Unknown content type "{part.get("type")}": expected "image" or "text".')
