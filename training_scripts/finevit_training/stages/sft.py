"""Supervised fine-tuning: from a recipe to a finished model folder."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import set_seed

from finecap.recipe_files import without_secrets
from finecap.sources.look import not_read
from finecap.tasks.wording import load_wordings
from finevit_training.arguments import DataArguments, FineViTSFTConfig, place_of
from finevit_training.checkpoint import find_checkpoint, save_output
from finevit_training.data.bad_records import UnusableData
from finevit_training.data.order import RoundKey, by_rounds
from finevit_training.data.reader import Reader, parts_hash
from finevit_training.data.source import open_data
from finevit_training.data.written_plan import WrittenPlan
from finevit_training.examples.conversation import Conversations
from finevit_training.loop.loading import loader_for
from finevit_training.loop.skips import load_skipped, skipped_of_all_ranks, write_skipped
from finevit_training.loop.support import refuse_setup
from finevit_training.process import prepare_process
from finevit_training.receipt import model_facts, training_receipt
from finevit_training.recipe import Recipe
from finevit_training.stages.sft_model import build_lora, build_model, build_processor
from finevit_vl import FineViTVLProcessor

if TYPE_CHECKING:
    from finevit_training.loop.trainer import FineViTSFTTrainer

_UNBOUNDED_STEPS = 10_000_000  # a run that only the clock ends


class Run(NamedTuple):
    """A run that is ready to start: its recipe, its trainer, and the checkpoint that it goes on from."""

    recipe: Recipe
    trainer: "FineViTSFTTrainer"
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
    args = recipe.training
    prepare_process(args.cpu_threads)
    checkpoint = find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
    return Run(recipe, build_trainer(recipe), checkpoint)


def train(run: Run) -> Path | None:
    """Trains, and writes the finished folder; None if SIGTERM ended the run with a checkpoint.

    Raises:
        UnusableData: too much of the data, or all of it, is left out.
    """
    recipe, trainer, checkpoint = run
    if checkpoint:
        trainer.skipped |= load_skipped(Path(checkpoint), trainer.args.process_index)
    if trainer.is_world_process_zero():
        args, facts = trainer.args, data_facts(recipe.data.data, recipe.data.split, trainer.loader.reader)
        length = f"{args.max_minutes:g} minutes" if args.max_minutes else f"{args.max_steps:,} steps"
        count = "an unknown number of" if facts["records"] is None else f"{facts['records']:,}"
        print(f"{count} rows of {', '.join(facts['corpora'])}, {length}, bf16 {args.bf16}", flush=True)
        for source in trainer.loader.reader.sources:
            if unread := not_read(source):
                print(f"{source.name} ({source.kind}): {unread}", flush=True)
    with trainer.stops.listening():
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except UnusableData as error:
            if not trainer.is_world_process_zero():
                raise
            path = write_skipped(Path(recipe.training.output_dir), trainer.skipped)
            raise UnusableData(f"{error}. The rows are listed in {path}") from error
    if trainer.stops.stopped_by_signal:
        return None
    finish(trainer, recipe, checkpoint)
    return Path(recipe.training.output_dir)


def build_trainer(recipe: Recipe) -> "FineViTSFTTrainer":
    """Everything that a run needs, ready for `train()`."""
    args, data = recipe.training, recipe.data
    refuse_setup(recipe.training, lora=bool(recipe.model.lora_rank))
    processor = build_processor(recipe.model)
    reader = build_reader(recipe, processor)
    eval_reader = build_eval_reader(recipe, processor) if args.eval_strategy != "no" else None
    set_seed(args.seed)
    model = build_model(recipe.model, processor)
    plan = open_plan(recipe, reader) if data.plan else None
    fraction = None
    if args.max_steps <= 0 and not args.max_minutes:
        fraction = by_rounds(reader.order, args.num_train_epochs)
        args.max_steps = count_steps(reader, args, fraction, plan)
    elif args.max_steps <= 0:
        args.max_steps = _UNBOUNDED_STEPS
    # Here and not above: it brings all of TRL, with the trackers that are installed, and much is refused before.
    from finevit_training.loop.trainer import FineViTSFTTrainer

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
    return _reader(recipe, processor, recipe.data.data, recipe.data.split, recipe.training.seed)


def build_eval_reader(recipe: Recipe, processor: FineViTVLProcessor) -> Reader:
    """Reads what the loss is measured on as conversations: the same rows and questions whatever the run's seed.

    Raises:
        ValueError: the data is not there.
    """
    data = recipe.data
    try:
        return _reader(recipe, processor, evaluated_sources(data), data.evaluated_split, 0, data.eval_records)
    except ValueError as error:
        raise ValueError(
            f"{error}. This is about the evaluation: `eval_data` names its sources, `eval_split` their split"
        ) from error


def evaluated_sources(data: DataArguments) -> list[Any]:
    """The sources of the evaluation. A split that one of `data` has of its own is the one to train on."""
    if data.eval_data:
        return data.eval_data
    sources: list[Any] = data.data
    return [
        {key: value for key, value in one.items() if key != "split"} if isinstance(one, Mapping) else one
        for one in sources
    ]


def _reader(
    recipe: Recipe,
    processor: FineViTVLProcessor,
    specs: Sequence[Any],
    split: str,
    seed: int,
    most_rows: int | None = None,
) -> Reader:
    args, data = recipe.training, open_data(specs, split)
    examples = Conversations(
        processor,
        max_length=int(args.max_length or 0),
        mixture=recipe.data.stages,
        seed=seed,
        max_turns=recipe.data.max_turns,
        isolate_turns=recipe.data.isolate_turns,
        wordings=load_wordings(recipe.data.wordings),
    )
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return Reader(data.sources, data.parts, data.order(seed, rows * args.world_size, most_rows), examples)


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
            f"plan {recipe.data.plan} is one of a curriculum over {plan.epochs} epochs; train for num_train_epochs: "
            f"{plan.epochs}, without max_steps and max_minutes, or leave `plan` out"
        )
    return plan


def count_steps(
    reader: Reader, args: FineViTSFTConfig, fraction: Callable[[RoundKey, int], float], plan: WrittenPlan | None = None
) -> int:
    """Optimizer steps of `num_train_epochs`, planned from the texts of the data before any picture is decoded."""
    epochs = math.ceil(args.num_train_epochs)
    if args.process_index == 0:
        print("counting the steps of an epoch: the texts and picture sizes of all rows are read", flush=True)
    loader = loader_for(args, reader, fraction, epochs=epochs, plan=plan)
    return max(1, math.ceil(loader.count_packs() * args.num_train_epochs / epochs / loader.shape.step))


def finish(trainer: "FineViTSFTTrainer", recipe: Recipe, checkpoint: str | None) -> None:
    """Saves the trained model with everything that belongs to it; on all ranks, of which rank 0 writes."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    state = None
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)  # gathered from all ranks
    elif recipe.model.lora_rank:
        model = model.merge_and_unload()
    skipped = skipped_of_all_ranks(trainer.skipped)
    if not trainer.accelerator.is_main_process:
        return
    data = recipe.data
    facts: dict[str, Any] = {
        "model": model_facts(model),
        "data": data_facts(data.data, data.split, trainer.loader.reader),
        "skipped": len(skipped),
    }
    if trainer.eval_reader:
        facts["eval_data"] = data_facts(evaluated_sources(data), data.evaluated_split, trainer.eval_reader)
    receipt = training_receipt(
        recipe, trainer.state, facts, processes=trainer.args.world_size, resumed_from=checkpoint
    )
    save_output(
        Path(recipe.training.output_dir), model, state, trainer.processing_class, recipe, receipt,
        trainer.state.log_history, skipped,
    )  # fmt: skip


def data_facts(specs: Sequence[Any], split: str, reader: Reader) -> dict[str, Any]:
    """What the receipt says about data: where it is, how many rows, and a hash of the list of its parts."""
    counts = [part.rows for _, part in reader.parts]
    return {
        "corpora": without_secrets([place_of(one) for one in specs]),
        "split": split,
        "records": None if None in counts else sum(count or 0 for count in counts),
        "parts_sha256": parts_hash(reader.parts),
    }
