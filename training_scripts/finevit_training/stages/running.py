"""From a recipe to a finished model folder, the same way for every stage."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peft import PeftModel
from transformers.utils.logging import disable_progress_bar

from finecap.recipe_files import without_secrets
from finecap.sources.look import counted, not_read
from finevit_training.arguments import SourceArguments, place_of
from finevit_training.checkpoint import find_checkpoint, refuse_other_model, save_output
from finevit_training.data.bad_records import UnusableData
from finevit_training.data.bad_records import counted as counted_kinds
from finevit_training.data.order import BLOCK, SMALL_WINDOW, RoundKey, by_rounds
from finevit_training.data.reader import Examples, Reader, parts_hash
from finevit_training.data.source import open_data
from finevit_training.data.written_plan import WrittenPlan
from finevit_training.loop.loading import loader_for
from finevit_training.loop.position import StageCallback, refuse_other_packs, refuse_other_stage
from finevit_training.loop.skips import (
    SKIPPED_FILE,
    kinds_of_reasons,
    load_skipped,
    skipped_of_all_ranks,
    write_skipped,
)
from finevit_training.process import prepare_process
from finevit_training.receipt import training_receipt
from finevit_training.recipe import Recipe
from finevit_training.stage import Stage

if TYPE_CHECKING:
    from finevit_training.loop.trainer import PackedTrainer

_UNBOUNDED_STEPS = 10_000_000  # a run that only the clock ends


class Run(NamedTuple):
    """A run that is ready to start: its stage and recipe, its trainer, and the checkpoint that it goes on from."""

    stage: Stage
    recipe: Recipe
    trainer: "PackedTrainer"
    checkpoint: str | None


def prepare_run(stage: Stage, recipe: Recipe) -> Run:
    """Builds everything that can be refused before the first step.

    Raises:
        ValueError: the recipe asks for something that is not there, or for what this launch cannot do.
    """
    args = recipe.training
    prepare_process(args.cpu_threads)
    if args.disable_tqdm:
        disable_progress_bar()  # of weights that are loaded and saved
    checkpoint = find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
    trainer = stage.build_trainer(recipe)
    trainer.add_callback(StageCallback(stage.name))
    if checkpoint:
        refuse_other_model(Path(checkpoint), trainer.accelerator.unwrap_model(trainer.model))
        refuse_other_stage(Path(checkpoint), stage.name)
        refuse_other_packs(Path(checkpoint), trainer.loader)
    return Run(stage, recipe, trainer, checkpoint)


def plan(run: Run) -> str:
    """What the run takes on the devices that the recipe names; trains nothing.

    Raises:
        ValueError: it was launched with several processes.
    """
    # Here and not above: it brings the Trainer, and much is refused before.
    from finevit_training.hardware import parse_hardware
    from finevit_training.loop.dry_run import estimate, report

    hardware = str(run.recipe.training.dry_run)
    if run.trainer.args.world_size > 1:
        raise ValueError("dry_run is for one process: it says what several devices would do")
    devices, _, _ = parse_hardware(hardware)
    return report(estimate(run.trainer, devices, "max_steps" in run.recipe.asked), hardware)


def train(run: Run) -> Path | None:
    """Trains, and writes the finished folder; None if SIGTERM ended the run with a checkpoint.

    Raises:
        UnusableData: too much of the data, or all of it, is left out.
        FloatingPointError: the loss became NaN or infinite.
    """
    _, recipe, trainer, checkpoint = run
    if checkpoint:
        trainer.skipped |= load_skipped(Path(checkpoint), trainer.args.process_index)
    if trainer.is_world_process_zero():
        args, data = trainer.args, recipe.data
        if checkpoint:
            print(f"going on from {checkpoint}", flush=True)
        ends = [counted(args.max_steps, "steps")] if args.max_steps < _UNBOUNDED_STEPS else []
        ends += [f"{args.max_minutes:g} minutes"] if args.max_minutes else []
        _say_data(data_facts(data.data, data.split, trainer.loader.reader), f"{' or '.join(ends)}, bf16 {args.bf16}")
        for source in trainer.loader.reader.sources:
            if unread := not_read(source):
                print(f"{source.name} ({source.kind}): {unread}", flush=True)
        if trainer.eval_reader:
            measured = data_facts(evaluated_sources(data), data.evaluated_split, trainer.eval_reader)
            limit = f"about {data.eval_records:,} of them, " if data.eval_records else ""
            _say_data(measured, f"split {data.evaluated_split}, {limit}for the evaluation")
    with trainer.stops.listening():
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except UnusableData as error:
            if not (trainer.skipped and trainer.is_world_process_zero()):
                raise
            path = write_skipped(Path(recipe.training.output_dir), trainer.skipped)
            raise UnusableData(f"{error}. Rows that were left out are listed in {path}") from error
    if trainer.stops.stopped_by_signal:
        return None
    finish(run)
    return Path(recipe.training.output_dir)


def _say_data(facts: Mapping[str, Any], more: str) -> None:
    count = "an unknown number of rows" if facts["records"] is None else counted(facts["records"], "rows")
    print(f"{count} of {', '.join(facts['corpora'])}, {more}", flush=True)


def open_reader(args: Any, data: SourceArguments, examples: Examples) -> Reader:
    """Reads what a recipe trains on.

    Args:
        args: `LoopArguments` and TrainingArguments.
        examples: what the stage makes of a row.

    Raises:
        ValueError: the data is not there.
    """
    return _reader(args, data.data, data.split, examples, args.seed)


def open_eval_reader(args: Any, data: SourceArguments, examples: Examples) -> Reader:
    """Reads what the loss is measured on: the same rows whatever the run's seed.

    Raises:
        ValueError: the data is not there.
    """
    try:
        return _reader(args, evaluated_sources(data), data.evaluated_split, examples, 0, data.eval_records)
    except ValueError as error:
        raise ValueError(
            f"{error}. This is about the evaluation: `eval_data` names its sources, `eval_split` their split"
        ) from error


def _reader(
    args: Any, specs: Sequence[Any], split: str, examples: Examples, seed: int, most_rows: int | None = None
) -> Reader:
    opened = open_data(specs, split)
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.row_capacity == 1:  # a row is one sample, and windows are as large as rows of several need them
        rows = max(1, rows * BLOCK // SMALL_WINDOW)
    return Reader(opened.sources, opened.parts, opened.order(seed, rows, most_rows), examples)


def evaluated_sources(data: SourceArguments) -> list[Any]:
    """The sources of the evaluation, which measures every row once. A split and a weight that one of `data` has of its
    own are those to train on.
    """
    if data.eval_data:
        return data.eval_data
    sources: list[Any] = data.data
    return [
        {key: value for key, value in one.items() if key not in ("split", "weight")}
        if isinstance(one, Mapping)
        else one
        for one in sources
    ]


def set_length(args: Any, reader: Reader, plan: WrittenPlan | None = None) -> Callable[[RoundKey, int], float] | None:
    """Sets `max_steps` where the recipe counts epochs or minutes.

    Returns:
        How far the training is when a round begins, where epochs say it; None: steps and clock do.
    """
    if args.max_steps > 0:
        return None
    if args.max_minutes:
        args.max_steps = _UNBOUNDED_STEPS
        return None
    fraction = by_rounds(reader.order, args.num_train_epochs)
    args.max_steps = count_steps(args, reader, fraction, plan)
    return fraction


def count_steps(
    args: Any, reader: Reader, fraction: Callable[[RoundKey, int], float], plan: WrittenPlan | None = None
) -> int:
    """Optimizer steps of `num_train_epochs`, planned from lengths before any picture is decoded."""
    epochs = math.ceil(args.num_train_epochs)
    if args.process_index == 0:
        print("counting the steps of an epoch: the texts and picture sizes of all rows are read", flush=True)
    loader = loader_for(args, reader, fraction, epochs=epochs, plan=plan)
    return max(1, math.ceil(loader.count_packs() * args.num_train_epochs / epochs / loader.shape.step))


def finish(run: Run) -> None:
    """Saves the trained model with everything that belongs to it; on all ranks, of which rank 0 writes."""
    stage, recipe, trainer, checkpoint = run
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    state = None
    if trainer.is_fsdp_enabled:
        gathered = trainer.accelerator.get_state_dict(trainer.model)  # from all ranks; empty on the others
        state = {name: value for name, value in gathered.items() if name not in model.all_tied_weights_keys}
    elif isinstance(model, PeftModel):
        model = model.merge_and_unload()
    skipped = skipped_of_all_ranks(trainer.skipped)
    drawings = stage.draw(trainer)
    if not trainer.accelerator.is_main_process:
        return
    data = recipe.data
    facts: dict[str, Any] = {
        "model": stage.model_facts(model),
        "data": data_facts(data.data, data.split, trainer.loader.reader),
        "skipped": len(skipped),
    }
    if trainer.eval_reader:
        facts["eval_data"] = data_facts(evaluated_sources(data), data.evaluated_split, trainer.eval_reader)
    receipt = training_receipt(
        recipe, trainer.state, facts, processes=trainer.args.world_size, resumed_from=checkpoint
    )
    save_output(
        stage, Path(recipe.training.output_dir), model, state, trainer.processing_class, recipe, receipt,
        trainer.state.log_history, skipped, drawings,
        (trainer.encoder, trainer.average.state_dict()) if trainer.average else None,
    )  # fmt: skip
    _say_left_out(skipped, Path(recipe.training.output_dir) / SKIPPED_FILE)


def _say_left_out(skipped: dict[str, str], file: Path) -> None:
    bad, passed_over = kinds_of_reasons(skipped)
    for kinds, what in (
        (bad, "left out, because something is wrong with them"),
        (
            passed_over,
            "passed over, in whole or in part, because the recipe asks nothing about them or they do not fit it",
        ),
    ):
        if kinds:
            print(f"{counted(kinds.total(), 'rows')} {what} ({counted_kinds(kinds)}): {file}", flush=True)


def data_facts(specs: Sequence[Any], split: str, reader: Reader) -> dict[str, Any]:
    """What the receipt says about data: where it is, how many rows, and a hash of the list of its parts."""
    counts = [part.rows for _, part in reader.parts]
    return {
        "corpora": without_secrets([place_of(one) for one in specs]),
        "split": split,
        "records": None if None in counts else sum(count or 0 for count in counts),
        "parts_sha256": parts_hash(reader.parts),
    }
