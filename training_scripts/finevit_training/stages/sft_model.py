"""The model and processor that a recipe asks for: from a FineViT-VL folder, from two folders, or from scratch."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import AddedToken
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
from transformers.utils import is_torchvision_available

import modeling_finevit
from finecap.tasks import wording as prompts
from finevit_training.loop.speed import split_parameters
from finevit_training.recipe import ModelArguments
from finevit_vl import (
    FineViTVLConfig,
    FineViTVLForConditionalGeneration,
    FineViTVLProcessor,
    build_qwen_tokenizer,
    generation_config_for,
)
from finevit_vl.configuration_finevit_vl import num_ranks
from finevit_vl.processing_finevit_vl import set_pixel_budget

# Every linear layer of the language model, after QLoRA (Dettmers et al. 2023), section 4.
_LLM_LORA = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
_ALL_LORA = r".*(language_model|vision_tower)\..*\.(q|k|v|o|gate|up|down)_proj"


def build_processor(args: ModelArguments) -> FineViTVLProcessor:
    """The processor, with the picture sizes of the recipe."""
    if args.model:
        processor = AutoProcessor.from_pretrained(_folder(args.model, "model"))
    elif args.vision:
        image_processor = AutoImageProcessor.from_pretrained(_folder(args.vision, "vision"))
        processor = FineViTVLProcessor.from_vision_text_pretrained(image_processor, _folder(args.llm, "llm"))
    else:
        name = "FineViTImageProcessor" if is_torchvision_available() else "FineViTImageProcessorPil"
        image_processor = getattr(modeling_finevit, name)()
        tokenizer = build_qwen_tokenizer(args.vocab_size or num_ranks(str(args.size)))
        if args.prompt_tokens:
            tokenizer.add_tokens([AddedToken(text, normalized=False) for text in prompts.FIXED_SENTENCES])
        processor = FineViTVLProcessor.from_vision_text_pretrained(image_processor, tokenizer)
    set_pixel_budget(processor.image_processor, args.min_pixels, args.max_pixels)
    return processor


def build_model(args: ModelArguments, processor: FineViTVLProcessor) -> FineViTVLForConditionalGeneration:
    """The model in float32 on the CPU, with the parts that the recipe leaves out frozen.

    Raises:
        ValueError: a folder does not exist.
    """
    attention: dict[str, Any] = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model:
        model = FineViTVLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32, **attention)
    elif args.vision:
        model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(
            args.vision, _folder(args.llm, "llm"), processor, dtype=torch.float32
        )
    else:
        model = FineViTVLForConditionalGeneration(scratch_config(args, processor))
        model.generation_config = generation_config_for(processor)
    if args.attn_implementation and not args.model:
        model.set_attn_implementation(args.attn_implementation)
    freeze(model, args)
    return model


def scratch_config(args: ModelArguments, processor: FineViTVLProcessor) -> FineViTVLConfig:
    """The configuration of a model from scratch."""
    return FineViTVLConfig.from_size(
        str(args.size),
        tokenizer=processor.tokenizer,
        vision_config=args.vision_config or {},
        text_config=args.text_config or {},
    )


def freeze(model: FineViTVLForConditionalGeneration, args: ModelArguments) -> None:
    """Takes the parts that are not trained out of the graph."""
    trained = {"tower": args.train_tower, "projector": args.train_projector, "llm": args.train_llm}
    for part, parameters in split_parameters(model).items():
        for parameter in parameters.values():
            parameter.requires_grad_(trained[part])


def lora_config(args: ModelArguments) -> LoraConfig | None:
    """LoRA on the language model (and the tower) with the projector trained in full; None without `lora_rank`."""
    if not args.lora_rank:
        return None
    return LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        target_modules=_ALL_LORA if args.lora_tower else _LLM_LORA,
        modules_to_save=["multi_modal_projector"] if args.train_projector else None,
        task_type="CAUSAL_LM",
    )


def _folder(path: str | None, name: str) -> str:
    if not path or not (Path(path) / "config.json").is_file():
        raise ValueError(f"`{name}` is {path!r}, which is no model folder: it holds no config.json")
    AutoConfig.from_pretrained(path)
    return path
