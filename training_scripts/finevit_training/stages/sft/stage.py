"""Supervised fine-tuning of a FineViT-VL: what it is built of."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import set_seed

from finecap.tasks.wording import load_wordings
from finevit_training.data.reader import Reader
from finevit_training.data.written_plan import WrittenPlan
from finevit_training.examples.conversation import Conversations
from finevit_training.loop.support import refuse_setup
from finevit_training.receipt import model_facts
from finevit_training.recipe import Recipe
from finevit_training.stage import Stage
from finevit_training.stages.running import open_eval_reader, open_reader, set_length
from finevit_training.stages.sft.model import build_lora, build_model, build_processor
from finevit_vl import FineViTVLProcessor

if TYPE_CHECKING:
    from finevit_training.stages.sft.trainer import FineViTSFTTrainer


def build_trainer(recipe: Recipe) -> "FineViTSFTTrainer":
    """Everything that a run needs, ready for `train()`.

    Raises:
        ValueError: the recipe asks for something that is not there.
    """
    args, data = recipe.training, recipe.data
    refuse_setup(recipe.training, lora=bool(recipe.model.lora_rank))
    processor = build_processor(recipe.model)
    reader = build_reader(recipe, processor)
    eval_reader = None
    if args.eval_strategy != "no":
        eval_reader = open_eval_reader(args, data, conversations(recipe, processor, seed=0))
    set_seed(args.seed)
    model = build_model(recipe.model, processor)
    plan = open_plan(recipe, reader) if data.plan else None
    fraction = set_length(args, reader, plan)
    # Here and not above: it brings all of TRL, with the trackers that are installed, and much is refused before.
    from finevit_training.stages.sft.trainer import FineViTSFTTrainer

    return FineViTSFTTrainer(
        model=model,
        args=args,
        reader=reader,
        processor=processor,
        eval_reader=eval_reader,
        fraction=fraction,
        plan=plan,
        max_bad_share=data.max_bad_share,
        peft_config=build_lora(recipe.model, model, processor),
    )


def build_reader(recipe: Recipe, processor: FineViTVLProcessor) -> Reader:
    """Reads what the recipe trains on as conversations."""
    return open_reader(recipe.training, recipe.data, conversations(recipe, processor, recipe.training.seed))


def conversations(recipe: Recipe, processor: FineViTVLProcessor, seed: int) -> Conversations:
    """What the recipe asks about a row; the questions follow from the seed."""
    return Conversations(
        processor,
        max_length=recipe.training.row_capacity,
        mixture=recipe.data.stages,
        seed=seed,
        max_turns=recipe.data.max_turns,
        isolate_turns=recipe.data.isolate_turns,
        wordings=load_wordings(recipe.data.wordings),
    )


def open_plan(recipe: Recipe, reader: Reader) -> WrittenPlan:
    """The plan that the recipe names.

    Raises:
        ValueError: it is none, or another training's. A curriculum's plan holds for its number of epochs alone,
            because that decides where in the data each mixture begins.
    """
    args, plan = recipe.training, WrittenPlan(Path(str(recipe.data.plan)), reader)
    by_epochs = args.max_steps <= 0 and not args.max_minutes
    if not isinstance(recipe.data.stages, Mapping) and not (by_epochs and args.num_train_epochs == plan.epochs):
        raise ValueError(
            f"the plan in {recipe.data.plan} is one of a curriculum over {plan.epochs} epochs; train for "
            f"num_train_epochs: {plan.epochs}, without max_steps and max_minutes, or leave `plan` out"
        )
    return plan


STAGE = Stage("vl_sft", build_trainer, model_facts, card="vl.md", loss="nats per supervised token")
