"""Supervised fine-tuning: from a recipe to a finished model folder."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import set_seed

from finevit_training.arguments import DataArguments
from finevit_training.checkpoint import find_checkpoint, save_output
from finevit_training.data.packing import may_pack_rows
from finevit_training.data.source import estimate_lengths, load_records
from finevit_training.examples.conversation import SFTCollator
from finevit_training.loop.skips import load_skipped, skipped_of_all_ranks
from finevit_training.loop.support import refuse_setup
from finevit_training.loop.trainer import FineViTSFTTrainer
from finevit_training.process import prepare_process
from finevit_training.receipt import model_facts, training_receipt
from finevit_training.recipe import Recipe
from finevit_training.stages.sft_model import build_lora, build_model, build_processor

_UNBOUNDED_STEPS = 10_000_000  # a run that only the clock ends


class Run(NamedTuple):
    """A run that is ready to start: its recipe, its trainer, and the checkpoint that it goes on from."""

    recipe: Recipe
    trainer: FineViTSFTTrainer
    checkpoint: str | None


def run(recipe: Recipe) -> Path | None:
    """Trains as the recipe says and returns the output folder, or None if SIGTERM ended it with a checkpoint.

    Raises:
        ValueError: the recipe asks for something that is not there.
        FloatingPointError: the loss became NaN or infinite.
    """
    return train(prepare_run(recipe))


def prepare_run(recipe: Recipe) -> Run:
    """Builds everything that can be refused before the first step.

    Raises:
        ValueError: the recipe asks for something that is not there, or for what this launch cannot do.
    """
    prepare_process(recipe.training.cpu_threads)
    trainer = build_trainer(recipe)
    args = recipe.training
    checkpoint = find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
    return Run(recipe, trainer, checkpoint)


def train(run: Run) -> Path | None:
    """Trains, and writes the finished folder; None if SIGTERM ended the run with a checkpoint."""
    recipe, trainer, checkpoint = run
    if checkpoint:
        trainer.skipped_examples |= load_skipped(Path(checkpoint), trainer.args.process_index)
    if trainer.is_world_process_zero():
        args, corpora = trainer.args, ", ".join(recipe.data.data)
        length = f"{args.max_minutes:g} minutes" if args.max_minutes else f"{args.max_steps:,} steps"
        print(f"{len(trainer.train_dataset):,} records of {corpora}, {length}, bf16 {args.bf16}", flush=True)
    with trainer.stops.listening():
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stops.stopped_by_signal:
        return None
    finish(trainer, recipe, checkpoint)
    return Path(recipe.training.output_dir)


def build_trainer(recipe: Recipe) -> FineViTSFTTrainer:
    """Everything that a run needs, ready for `train()`."""
    args, data = recipe.training, recipe.data
    refuse_setup(recipe.training, lora=bool(recipe.model.lora_rank))
    set_seed(args.seed)
    processor = build_processor(recipe.model)
    model = build_model(recipe.model, processor)
    records = load_records(data.data, data.split)
    lengths = estimate_lengths(records) if data.group_by_length else None
    samples_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        by_epochs = -(-int(args.num_train_epochs * len(records)) // samples_per_step)
        args.max_steps = _UNBOUNDED_STEPS if args.max_minutes else by_epochs
    collator = SFTCollator(
        processor,
        mixture=data.stages,
        seed=args.seed,
        max_turns=data.max_turns,
        max_length=args.max_length,
        packing=data.pack_samples,
        single_row=not may_pack_rows(model.config.get_text_config()._attn_implementation),
        isolate_turns=data.isolate_turns,
        max_bad_share=data.max_bad_share,
    )
    return FineViTSFTTrainer(
        model=model,
        args=args,
        collator=collator,
        records=records,
        eval_records=load_eval_records(data) if args.eval_strategy != "no" else None,
        processor=processor,
        lengths=lengths,
        peft_config=build_lora(recipe.model, model, processor),
    )


def load_eval_records(data: DataArguments) -> datasets.Dataset:
    """The records that the training is evaluated on: all of `eval_split`, or always the same `eval_records` of it."""
    records = load_records(data.data, data.eval_split)
    if data.eval_records is None or data.eval_records >= len(records):
        return records
    return records.select(sorted(np.random.default_rng(0).permutation(len(records))[: data.eval_records]))


def finish(trainer: FineViTSFTTrainer, recipe: Recipe, checkpoint: str | None) -> None:
    """Saves the trained model with everything that belongs to it; on all ranks, of which rank 0 writes."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    state = None
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)  # gathered from all ranks
    elif recipe.model.lora_rank:
        model = model.merge_and_unload()
    skipped = skipped_of_all_ranks(trainer.skipped_examples)
    if not trainer.accelerator.is_main_process:
        return
    receipt = training_receipt(
        recipe,
        trainer.state,
        {"model": model_facts(model), "data": data_facts(recipe.data, trainer.train_dataset), "skipped": len(skipped)},
        processes=trainer.args.world_size,
        resumed_from=checkpoint,
    )
    save_output(
        Path(recipe.training.output_dir), model, state, trainer.processing_class, recipe, receipt,
        trainer.state.log_history, skipped,
    )  # fmt: skip


def data_facts(data: DataArguments, records: datasets.Dataset) -> dict[str, Any]:
    """What the receipt says about the records: where they are, how many, and a hash of their ids in order."""
    digest = hashlib.sha256()
    for record_id in records["id"]:
        digest.update(f"{record_id}\n".encode())
    return {"corpora": data.data, "split": data.split, "records": len(records), "ids_sha256": digest.hexdigest()}
