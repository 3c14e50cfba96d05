# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Joining a FineViT and a language model into a FineViT-VL."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from finevit_vl.configuration_finevit_vl import SCALES, FineViTVLConfig
from finevit_vl.processing_finevit_vl import FineViTVLProcessor
from modeling_finevit import FineViTModel
from modeling_finevit.conversion import PROJECTOR_FILE

Model = TypeVar("Model", bound=PreTrainedModel)


def join_vision_and_text(
    model_class: type[Model],
    vision: str | Path | PreTrainedModel,
    text: str | Path | PreTrainedModel,
    processor: FineViTVLProcessor | None = None,
    dtype: str | torch.dtype = "auto",
    projector: str | Path | None = None,
    **config_overrides: Any,
) -> Model:
    """Build a FineViT-VL around an existing encoder and language model.

    ```python
    processor = FineViTVLProcessor.from_vision_text_pretrained(vision, text)
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision, text, processor)
    ```

    Args:
        model_class: `FineViTVLForConditionalGeneration` or a subclass.
        vision: folder (or Hub id) of a FineViT or of a model that holds one (stage I's, stage II's, a FineViT-VL),
            or a live `FineViTModel`, whose weights are taken over, not copied.
        text: folder (or Hub id) of a causal language model, or a live one (likewise).
        processor: what `FineViTVLProcessor.from_vision_text_pretrained` built from the same two; may be left out when
            both are folders. The embedding grows to its tokenizer's length where it is smaller.
        dtype: for folders, as in `from_pretrained`; the encoder and the projector take the language model's dtype.
        projector: folder with a `projector.safetensors`, as a converted Qwen2.5-VL has it; without it the projector
            starts from random weights.
        config_overrides: projector fields of [`FineViTVLConfig`].

    Raises:
        ValueError: a live model without a processor, a language model without the usual `embed_tokens` or whose logits
            are more than its head's product (Gemma 2, Cohere, Granite), or a projector that is missing or of other
            widths.
    """
    if processor is None:
        if not (isinstance(vision, str | Path) and isinstance(text, str | Path)):
            raise ValueError(
                "A live model does not carry its tokenizer: pass processor="
                "FineViTVLProcessor.from_vision_text_pretrained(image_processor, tokenizer)."
            )
        processor = FineViTVLProcessor.from_vision_text_pretrained(vision, text)
    if isinstance(text, str | Path):
        text = AutoModelForCausalLM.from_pretrained(text, dtype=dtype)
    if isinstance(vision, str | Path):
        vision = FineViTModel.from_pretrained(vision, dtype=text.dtype)
    _check_head(text)
    with torch.device("meta"):
        model = model_class(_joint_config(vision, text, processor, config_overrides))
    empty = model.model.multi_modal_projector.to_empty(device=text.device).to(text.dtype)
    empty.apply(model._init_weights)
    if projector is not None:
        _load_projector(empty, Path(projector))
    model.model.vision_tower = vision.to(device=text.device, dtype=text.dtype)
    model.model.language_model = text.base_model
    model.lm_head = text.get_output_embeddings()
    model.generation_config = generation_config_for(processor, text.generation_config)
    return model.eval()


def _check_head(text: PreTrainedModel) -> None:
    """The joint model's logits are `lm_head` of the last hidden state and nothing more; so must `text`'s be."""
    head: Any = text.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{type(text).__name__} has a head with a bias, which a FineViT-VL has not; use another.")
    # Large, so that soft-capping shows, whatever the weights are.
    given = torch.full((1, 1, head.weight.shape[0]), 100.0, device=text.device, dtype=text.dtype)
    handle = head.register_forward_hook(lambda *_: given)
    try:
        with torch.no_grad():
            answered = text(input_ids=torch.zeros(1, 1, dtype=torch.long, device=text.device), use_cache=False).logits
    finally:
        handle.remove()
    if not torch.equal(answered.to(given.dtype), given):
        raise ValueError(SCALES.format(type(text).__name__))


def _joint_config(
    vision: PreTrainedModel, text: PreTrainedModel, processor: FineViTVLProcessor, overrides: dict[str, Any]
) -> FineViTVLConfig:
    """The config of the two together; the language model's embedding grows to the tokenizer's length before."""
    if not hasattr(text.base_model, "embed_tokens"):
        raise ValueError(
            f"{type(text).__name__} keeps its embedding elsewhere than in base_model.embed_tokens: "
            "use a decoder laid out like Qwen, Llama or Mistral."
        )
    num_tokens = len(processor.tokenizer)
    if num_tokens > text.config.get_text_config().vocab_size:
        text.resize_token_embeddings(num_tokens)
    return FineViTVLConfig(
        vision_config=vision.config,
        text_config=text.config,
        image_token_id=processor.image_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
        dtype=text.dtype,
        **overrides,
    )


def _load_projector(projector: nn.Module, folder: Path) -> None:
    file = folder / PROJECTOR_FILE
    if not file.is_file():
        raise ValueError(f"{folder} holds no {PROJECTOR_FILE}; give a folder that a converted tower was saved to.")
    try:
        projector.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ValueError(
            f"{file} does not fit between this encoder and language model; give no projector to start with a new one, "
            f"or the two that it was made for: {error}"
        ) from error


def generation_config_for(processor: FineViTVLProcessor, base: GenerationConfig | None = None) -> GenerationConfig:
    """`base` with the tokenizer's end and pad tokens, and image tokens never generated.

    Suppressing them keeps prompt-lookup decoding from proposing a copy of the prompt's image tokens, for which there
    would be no image features.
    """
    tokenizer = processor.tokenizer
    config = GenerationConfig.from_dict(base.to_dict()) if base is not None else GenerationConfig()
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *(end for end in ends if end is not None)]))
    config.pad_token_id = tokenizer.pad_token_id
    config.suppress_tokens = [
        processor.image_token_id,
        processor.vision_start_token_id,
        processor.vision_end_token_id,
    ]
    return config
