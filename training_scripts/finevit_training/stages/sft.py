"""A training run from a recipe to a finished model folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import set_seed

from finevit_training.checkpoint import save_output
from finevit_training.data.packing import may_pack_rows
from finevit_training.data.source import estimate_lengths, load_records
from finevit_training.examples.conversation import SFTCollator
from finevit_training.loop.trainer import FineViTSFTTrainer
from finevit_training.recipe import Recipe
from finevit_training.stages.sft_model import build_model, build_processor, lora_config

_UNBOUNDED_STEPS = 10_000_000  # a run that only the clock ends


def run(recipe: Recipe, card_template: Path) -> Path:
    """Trains as the recipe says and returns the output folder, in which the card is made from `card_template`.

    Raises:
        ValueError: the recipe asks for something that is not there.
        FloatingPointError: the loss became NaN or infinite.
    """
    trainer = build_trainer(recipe)
    out = Path(recipe.training.output_dir)
    trainer.train(resume_from_checkpoint=find_checkpoint(out, recipe.training.resume_from_checkpoint))
    finish(trainer, recipe, card_template)
    return out


def build_trainer(recipe: Recipe) -> FineViTSFTTrainer:
    """Everything that a run needs, ready for `train()`."""
    args = recipe.training
    if recipe.model.lora_rank and PartialState().distributed_type == DistributedType.FSDP:
        raise ValueError("LoRA adapters cannot be merged from FSDP shards; launch LoRA runs without FSDP")
    set_seed(args.seed)
    processor = build_processor(recipe.model)
    model = build_model(recipe.model, processor)
    records = load_records(recipe.data.data, recipe.data.split)
    lengths = estimate_lengths(records) if recipe.data.group_by_length else None
    samples_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        by_epochs = -(-int(args.num_train_epochs * len(records)) // samples_per_step)
        args.max_steps = _UNBOUNDED_STEPS if args.max_minutes else by_epochs
    collator = SFTCollator(
        processor,
        mixture=recipe.data.stages,
        seed=args.seed,
        max_turns=recipe.data.max_turns,
        max_length=args.max_length,
        packing=recipe.data.pack_samples,
        single_row=not may_pack_rows(model.config.get_text_config()._attn_implementation),
        isolate_turns=recipe.data.isolate_turns,
        max_bad_share=recipe.data.max_bad_share,
    )
    return FineViTSFTTrainer(
        model=model,
        args=args,
        collator=collator,
        records=records,
        processor=processor,
        lengths=lengths,
        peft_config=lora_config(recipe.model),
    )


def find_checkpoint(out: Path, wanted: str | None) -> str | None:
    """The checkpoint to resume from.

    With `wanted` true ("True", "last"), the newest whole checkpoint in `out`, or None where there is none;
    half-written ones, left by a kill while saving, are removed. A path is taken as it is.

    Raises:
        ValueError: a path that holds no whole checkpoint.
    """
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() not in ("true", "last"):
        if not _is_whole(Path(wanted)):
            raise ValueError(f"resume_from_checkpoint {wanted} is no whole checkpoint; give a folder or `last`")
        return str(wanted)
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]))
    while found:
        newest = found.pop()
        if _is_whole(newest):
            return str(newest)
        shutil.rmtree(newest)
    return None


def _is_whole(checkpoint: Path) -> bool:
    # The Trainer writes the state last, so a checkpoint with a readable state has everything else.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return True


def finish(trainer: FineViTSFTTrainer, recipe: Recipe, card_template: Path) -> None:
    """Saves the trained model with everything that belongs to it; on all ranks, of which rank 0 writes."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    state = None
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)  # gathered from all ranks
    elif recipe.model.lora_rank:
        model = model.merge_and_unload()
    if not trainer.accelerator.is_main_process:
        return
    save_output(
        Path(recipe.training.output_dir),
        model,
        state,
        trainer.processing_class,
        recipe,
        trainer.state.log_history,
        trainer.skipped_examples,
        card_template,
    )
