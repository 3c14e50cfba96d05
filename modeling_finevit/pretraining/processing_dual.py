# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Pictures and captions for stage II's two towers."""

from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import AutoTokenizer, BaseImageProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import ProcessorMixin


class FineViTDualProcessor(ProcessorMixin):
    r"""Makes `pixel_values`, `image_grid_thw` and `input_ids` for [`FineViTDualModel`].

    Texts are lower-cased, and padded or cut to `text_length` tokens. Arguments about padding and cutting are not
    heeded, so that a text has one embedding, however and in whatever company it is given.

    Args:
        image_processor: FineViT's.
        tokenizer: any tokenizer with a pad token; it is made to lower-case (in place, unless saving would undo that).
        text_length (`int`, *optional*, defaults to 256): tokens of every text [the paper's].

    Raises:
        ValueError: no tokenizer, none that can pad, or none that can be made to lower-case.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_length: int = 256,
        **kwargs: Any,
    ) -> None:
        if tokenizer is None or tokenizer.pad_token_id is None:
            raise ValueError("FineViTDualProcessor needs a tokenizer with a pad token: pass tokenizer=...")
        self.text_length = text_length
        super().__init__(image_processor, lower_casing(tokenizer), **kwargs)

    @property
    def text_form(self) -> dict[str, Any]:
        """What the tokenizer is always told, because SigLIP is trained so: another form of a text would have another
        embedding.
        """
        return {
            "padding": "max_length",
            "max_length": self.text_length,
            "truncation": True,
            "padding_side": "right",
            "return_attention_mask": False,
            "add_special_tokens": True,
        }

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Path | BaseImageProcessor,
        text: str | Path | PreTrainedTokenizerBase,
        text_length: int = 256,
    ) -> "FineViTDualProcessor":
        """The processor for a model built from a FineViT and a text tower.

        Args:
            vision: folder (or Hub id) of a FineViT with its image processor, or a live image processor.
            text: folder (or Hub id) of a text tower with its tokenizer, or a live tokenizer.
            text_length: tokens of every text.
        """
        image_processor = AutoImageProcessor.from_pretrained(vision) if isinstance(vision, str | Path) else vision
        tokenizer: Any = AutoTokenizer.from_pretrained(text) if isinstance(text, str | Path) else text
        return cls(image_processor=image_processor, tokenizer=tokenizer, text_length=text_length)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """As in the base class.

        Args:
            images: whatever FineViT's image processor takes.
            text (`str` or `list[str]`): captions.
            kwargs: `return_tensors`, and settings of the image processor.

        Raises:
            ValueError: `text` is an empty list.
        """
        if isinstance(text, list | tuple) and not text:
            raise ValueError("text is empty; expected at least one caption, or leave text out.")
        nested = dict(kwargs.pop("text_kwargs", None) or {}) | self.text_form
        return super().__call__(
            images=images,
            text=[text] if isinstance(text, str) else text,
            text_kwargs=nested,
            **{name: value for name, value in kwargs.items() if name not in nested},
        )


def lower_casing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that reads upper case as lower case, with whoever calls it and after it was saved.

    Raises:
        ValueError: it does not, and has no `tokenizers` backend that could be told to.
    """
    if _is_lower_casing(tokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} does not lower-case its texts and has no `tokenizers` backend that could: "
            "convert it to a fast tokenizer."
        )
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(steps)
    if type(tokenizer) is PreTrainedTokenizerFast:
        return tokenizer
    # Classes of one family (Gemma, ...) build their normalizer anew when they are loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        model_input_names=list(tokenizer.model_input_names),
    )


def _is_lower_casing(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer("A PAGE OF Text").input_ids == tokenizer("a page of text").input_ids


__all__ = ["FineViTDualProcessor", "lower_casing"]
