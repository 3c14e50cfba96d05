"""The model and processor that a recipe asks for: a FineViT-VL, a tower and a language model, or from scratch."""

from typing import Any, cast

import torch
from peft import LoraConfig
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finecap.tasks import wording as prompts
from finevit_training.loop.parts import freeze, lora_config
from finevit_training.stages.encoder import new_image_processor
from finevit_training.stages.folders import checked_kind, checked_model
from finevit_training.stages.sft.arguments import ModelArguments
from finevit_vl import (
    FineViTVLConfig,
    FineViTVLForConditionalGeneration,
    FineViTVLProcessor,
    build_qwen_tokenizer,
    generation_config_for,
)
from finevit_vl.configuration_finevit_vl import num_ranks
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTConfig


def build_processor(args: ModelArguments) -> FineViTVLProcessor:
    """The processor, with the picture sizes of the recipe.

    Raises:
        ValueError: a model is not there, or the vision folder holds no FineViT or no image processor.
    """
    if args.model:
        processor = AutoProcessor.from_pretrained(checked_kind(args.model, "model", ("finevit_vl",), "vision"))
    else:
        if args.vision:
            image_processor = _image_processor(checked_tower(args.vision))
        else:
            image_processor = new_image_processor(str(args.size), cast(Any, args.vision_config))
        text = checked_model(args.llm, "llm") if args.llm else scratch_tokenizer(args)
        processor = FineViTVLProcessor.from_vision_text_pretrained(image_processor, text)
    set_pixel_budget(processor.image_processor, args.min_pixels, args.max_pixels)
    return processor


def build_model(args: ModelArguments, processor: FineViTVLProcessor) -> FineViTVLForConditionalGeneration:
    """The model in float32 on the CPU, with the parts that the recipe leaves out frozen.

    Args:
        args: the recipe's model.
        processor: what `build_processor` gave, which has checked that the models are there.

    Raises:
        ValueError: the projector is not there or does not fit.
    """
    attention: dict[str, Any] = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model:
        model = FineViTVLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32, **attention)
    elif args.vision:
        llm: Any = checked_model(args.llm, "llm") if args.llm else scratch_llm(args, processor)
        model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(
            args.vision, llm, processor, dtype=torch.float32, projector=args.projector
        )
    else:
        model = FineViTVLForConditionalGeneration(scratch_config(args, processor))
        model.generation_config = generation_config_for(processor)
    if args.attn_implementation and not args.model:
        model.set_attn_implementation(args.attn_implementation)
    freeze(
        model, {"tower": bool(args.train_tower), "projector": bool(args.train_projector), "llm": bool(args.train_llm)}
    )
    return model


def scratch_tokenizer(args: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model from scratch."""
    tokenizer = build_qwen_tokenizer(args.vocab_size or num_ranks(str(args.size)))
    if args.prompt_tokens:
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in prompts.FIXED_SENTENCES])
    return tokenizer


def scratch_llm(args: ModelArguments, processor: FineViTVLProcessor) -> PreTrainedModel:
    """A language model from scratch, for a tower that is there."""
    return AutoModelForCausalLM.from_config(scratch_config(args, processor).text_config, dtype=torch.float32)


def scratch_config(args: ModelArguments, processor: FineViTVLProcessor) -> FineViTVLConfig:
    """The configuration of a model from scratch.

    Raises:
        ValueError: its vocabulary is smaller than the tokenizer's.
    """
    check_vocabulary(args.text_config, processor.tokenizer)
    return FineViTVLConfig.from_size(
        str(args.size),
        tokenizer=processor.tokenizer,
        vision_config=args.vision_config or {},
        text_config=args.text_config or {},
    )


def check_vocabulary(text_config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError if a recipe's `text_config` has fewer tokens than the tokenizer."""
    size = (text_config or {}).get("vocab_size", len(tokenizer))
    if size < len(tokenizer):
        raise ValueError(
            f"vocab_size in text_config is {size}, and the tokenizer has {len(tokenizer)} tokens; "
            "leave it out of text_config: the recipe's own vocab_size makes tokenizer and model smaller"
        )


def build_lora(
    args: ModelArguments, model: FineViTVLForConditionalGeneration, processor: FineViTVLProcessor
) -> LoraConfig | None:
    """LoRA as the recipe says, with the rows of tokens that the language model lacked; None without `lora_rank`."""
    if not args.lora_rank:
        return None
    new_tokens: list[int] = []
    if args.llm:
        tokenizer: Any = AutoTokenizer.from_pretrained(args.llm)
        known = tokenizer.get_vocab()
        new_tokens = sorted(id_ for token, id_ in processor.tokenizer.get_vocab().items() if token not in known)
    return lora_config(
        args.lora_rank,
        args.lora_alpha,
        tower=args.lora_tower,
        projector=args.train_projector,
        new_tokens=new_tokens,
        tied_head=bool(model.config.tie_word_embeddings),
    )


def checked_tower(given: str) -> str:
    """`given`, a folder or Hub id of a FineViT or of any model that holds one: stage I's, stage II's, a FineViT-VL.

    Raises:
        ValueError: it is none.
    """
    config: Any = AutoConfig.from_pretrained(checked_model(given, "vision"))
    tower = getattr(config, "vision_config", config)
    if tower.model_type != FineViTConfig.model_type:
        raise ValueError(
            f"`vision` is {given!r}, a {config.model_type}; expected a FineViT, or the folder that a stage of its "
            "training wrote"
        )
    return given


def _image_processor(vision: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(vision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`vision` is {vision!r}, which holds no image processor; write the one that the tower was trained with, "
            f'such as modeling_finevit.FineViTImageProcessor().save_pretrained("{vision}")'
        ) from error
