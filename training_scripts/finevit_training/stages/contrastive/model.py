"""The towers and the processor that a recipe of stage II asks for."""

from typing import Any, cast

import torch
from tokenizers import processors
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Siglip2TextConfig,
    Siglip2TextModel,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from finevit_training.stages.contrastive.arguments import DualModelArguments
from finevit_training.stages.encoder import new_image_processor
from finevit_training.stages.folders import WITH_ENCODER, checked_kind
from finevit_training.stages.sft.model import check_vocabulary
from finevit_vl import build_qwen_tokenizer
from finevit_vl.configuration_finevit_vl import num_ranks
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTConfig, FineViTDualModel, FineViTDualProcessor, FineViTModel
from modeling_finevit.pretraining.configuration_dual import text_fields
from modeling_finevit.pretraining.text_tower import TEXT_MODELS, TextTower, load_text_tower

PAPERS_TEXT_LENGTH = 256


def build_processor(args: DualModelArguments) -> FineViTDualProcessor:
    """The processor, with the largest picture size of the recipe.

    Raises:
        ValueError: a folder is not there or of another kind, or holds no image processor or tokenizer.
    """
    if args.model:
        processor = AutoProcessor.from_pretrained(checked_kind(args.model, "model", ("finevit_dual",), "vision"))
        if not isinstance(processor, FineViTDualProcessor):
            raise ValueError(f"`model` is {args.model!r}, without its processor; give the folder of a run")
    else:
        if args.vision:
            image_processor = _loaded(args.vision, "vision", "image processor")
        else:
            image_processor = new_image_processor(str(args.size), cast(Any, args.vision_config))
        tokenizer = _loaded(args.text, "text", "tokenizer") if args.text else _new_tokenizer(args)
        processor = FineViTDualProcessor(image_processor, tokenizer, args.text_length or PAPERS_TEXT_LENGTH)
    set_pixel_budget(processor.image_processor, args.min_pixels, args.budgets[-1].max_pixels)
    return processor


def build_model(args: DualModelArguments, processor: FineViTDualProcessor) -> FineViTDualModel:
    """The model in float32 on the CPU.

    Args:
        processor: what `build_processor` gave, which has checked that the folders are there.

    Raises:
        ValueError: towers that do not fit together.
    """
    if args.model:
        model = FineViTDualModel.from_pretrained(args.model, dtype=torch.float32)
    else:
        fields: dict[str, Any] = {"text_projection": args.text_projection, "text_padding_mask": not args.text}
        if args.num_pooling_queries:
            fields["num_pooling_queries"] = args.num_pooling_queries
        vision = _vision(args)
        model = FineViTDualModel.from_vision_text_pretrained(
            vision, _text(args, processor, vision), processor, **fields
        )
    if args.attn_implementation:
        model.set_attn_implementation(args.attn_implementation)
    return model


def _vision(args: DualModelArguments) -> FineViTModel:
    if args.vision:
        return FineViTModel.from_pretrained(args.vision, dtype=torch.float32)
    return FineViTModel(FineViTConfig.from_size(str(args.size), **(args.vision_config or {})))  # ty: ignore


def _text(args: DualModelArguments, processor: FineViTDualProcessor, vision: FineViTModel) -> TextTower:
    if args.text:
        stretch: Any = args.position_stretch or "linear"
        return load_text_tower(args.text, processor.text_length, stretch, dtype=torch.float32)
    check_vocabulary(args.text_config, processor.tokenizer)
    fields = text_fields(str(args.size), vision.config.hidden_size) | {
        "vocab_size": len(processor.tokenizer),
        "max_position_embeddings": processor.text_length,
    }
    config = Siglip2TextConfig(**(fields | (args.text_config or {})))  # ty: ignore
    return Siglip2TextModel(config)


def _new_tokenizer(args: DualModelArguments) -> PreTrainedTokenizerBase:
    """Qwen's, with an end of text behind every caption, as SigLIP's tokenizers have it."""
    tokenizer = build_qwen_tokenizer(args.vocab_size or num_ranks(str(args.size)))
    end = str(tokenizer.eos_token)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return tokenizer


def _loaded(folder: str, option: str, what: str) -> Any:
    """The image processor of `vision`, or the tokenizer of `text`."""
    checked_kind(folder, option, WITH_ENCODER if option == "vision" else ("siglip", "siglip2", *TEXT_MODELS))
    try:
        if option == "text":
            return AutoTokenizer.from_pretrained(folder)
        return AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`{option}` is {folder!r}, which holds no {what}; put the one it was trained with there"
        ) from error
