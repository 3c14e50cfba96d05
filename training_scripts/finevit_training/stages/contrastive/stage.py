"""Stage II, contrastive learning on captions: what it is built of."""

from typing import Any

from transformers import set_seed

from finevit_training.examples.pairs import Pairs
from finevit_training.loop.support import refuse_setup
from finevit_training.recipe import Recipe
from finevit_training.stage import Stage
from finevit_training.stages.contrastive.model import build_model, build_processor
from finevit_training.stages.contrastive.trainer import ContrastiveTrainer
from finevit_training.stages.running import open_eval_reader, open_reader, set_length
from modeling_finevit import FineViTDualModel, FineViTDualProcessor


def build_trainer(recipe: Recipe) -> ContrastiveTrainer:
    """Everything that a run needs, ready for `train()`.

    Raises:
        ValueError: the recipe asks for something that is not there.
    """
    args, data = recipe.training, recipe.data
    refuse_setup(args, lora=False)
    processor = build_processor(recipe.model)
    reader = open_reader(args, data, pairs(recipe, processor, args.seed))
    eval_reader = None
    if args.eval_strategy != "no":
        eval_reader = open_eval_reader(args, data, pairs(recipe, processor, seed=0, always_full=False))
    set_seed(args.seed)
    model = build_model(recipe.model, processor)
    return ContrastiveTrainer(
        model=model,
        args=args,
        reader=reader,
        processor=processor,
        eval_reader=eval_reader,
        fraction=set_length(args, reader),
        max_bad_share=data.max_bad_share,
    )


def pairs(recipe: Recipe, processor: FineViTDualProcessor, seed: int, always_full: bool = True) -> Pairs:
    """The recipe's pairs; captions are drawn by the seed."""
    regions = recipe.data.max_regions if recipe.training.region_weight else 0
    return Pairs(processor, recipe.model.budgets, recipe.data.shares, seed, always_full, regions)


def model_facts(model: FineViTDualModel) -> dict[str, Any]:
    """Size and kind of both towers."""
    vision, text = model.config.vision_config, model.config.text_config
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vision": f"FineViT, {vision.num_hidden_layers} layers, width {vision.hidden_size}",
        "text": f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, "
        f"{model.config.text_length} tokens",
    }


STAGE = Stage("contrastive", build_trainer, model_facts, card="dual.md", loss="sigmoid loss per picture")
