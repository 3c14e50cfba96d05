"""FineViT's training against stock TRL: the same conversations, model, optimizer, and samples a step.

    python -m benchmarks.training.trl                         # two turns, two minutes
    python -m benchmarks.training.trl --pictures 400 --steps 40 --turns 5

Conversations about photographs (300 to 1600 pixels) and pages are drawn once and written as `messages` and `images`;
both read this file. TRL is its SFTTrainer with its own collator, `datasets`, and padding to the longest sample; it
trains on answers alone, as FineViT does. FineViT packs rows; TRL's batch has as many samples as FineViT's step has on
average. Both in bfloat16 autocast, one thread, no loader process, no gradient checkpointing, in turns within one
process and from the same weights. Samples a second by either clock, without the first step.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from trl import SFTConfig, SFTTrainer

from benchmarks.measuring import Seconds, add_out, conditions, progress, write_figures
from benchmarks.training.records import mixed_records, reader_of, write_records
from benchmarks.training.steps import StepTimes
from finecap.sources.rows import Row
from finevit_training.data.loader import PackedLoader
from finevit_training.data.order import RowKey
from finevit_training.examples.chat import messages
from finevit_training.process import prepare_process
from finevit_training.recipe import Recipe, parse_recipe
from finevit_training.stages.sft import build_trainer
from finevit_training.stages.sft_model import build_model, build_processor
from finevit_vl import FineViTVLProcessor

PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "pillow")
WARM_UP = 1
# No boxes: in ready conversations, which come from strangers, the door refuses the tokens that they are written with.
MIXTURE = {"qa": 6, "transcribe": 0.5, "global_caption": 1}


def write_conversations(folder: Path, processor: FineViTVLProcessor, args: argparse.Namespace) -> tuple[Path, int]:
    """A parquet file of `messages` and `images`, and its number of rows; conversations fit a row of tokens."""
    records = mixed_records(args.pictures, args.seed)
    reader = reader_of(write_records(records, folder / "records"), processor, args.max_length, args.seed, MIXTURE)
    pictures = {record["id"]: record["image"]["bytes"] for record in records}
    examples: Any = reader.examples
    rows = []
    for source, part in reader.parts:
        for row in reader.sources[source].read_rows(part):
            assert isinstance(row, Row)
            turns = messages(examples.turns(row, RowKey(0, 0, 0, 0), 0.0))
            patches = processor.image_processor.get_number_of_image_patches(row.sizes[0][1], row.sizes[0][0])
            if len(examples.chat.encode(turns).input_ids) + patches // 4 > args.max_length:
                continue
            rows.append({"messages": turns, "images": [{"bytes": pictures[row.id], "path": None}]})
    (folder / "conversations").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "conversations" / "train.parquet", row_group_size=64)
    return folder / "conversations" / "train.parquet", len(rows)


def recipe_for(data: Path, out: Path, args: argparse.Namespace) -> Recipe:
    flags = {
        "size": "nano",
        "vocab_size": 1024,
        "max_pixels": args.edge**2,
        "data": data,
        "output_dir": out,
        "max_length": args.max_length,
        "max_steps": args.steps,
        "per_device_train_batch_size": args.rows,
        "cpu_threads": 1,
        "bf16": True,
        "gradient_checkpointing": False,
        "logging_steps": 1000,
        "learning_rate": 1e-4,
        "seed": args.seed,
    }
    return parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))])


def samples_of_a_step(recipe: Recipe) -> float:
    """Samples in FineViT's steps, on average over an epoch."""
    planned = build_trainer(recipe).loader
    loader = PackedLoader(planned.reader, planned.shape, lambda key, step: 0.0)
    return sum(part.rows or 0 for _, part in planned.reader.parts) / loader.count_packs() * planned.shape.step


def train_finevit(recipe: Recipe, model: Any) -> Seconds:
    trainer = build_trainer(recipe)
    trainer.model.load_state_dict(model.state_dict())
    times = StepTimes(lambda: trainer.loader.position.samples)
    trainer.add_callback(times)
    trainer.train()
    return times.rates(WARM_UP)


def train_trl(recipe: Recipe, model: Any, data: Path, batch: int) -> Seconds:
    ours, processor = recipe.training, build_processor(recipe.model)
    same = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "optim", "max_grad_norm", "max_steps", "seed")
    config = SFTConfig(
        output_dir=ours.output_dir,
        per_device_train_batch_size=batch,
        max_length=None,
        assistant_only_loss=True,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1000,
        disable_tqdm=True,
        lr_scheduler_type=ours.lr_scheduler_type,
        **{name: getattr(ours, name) for name in same},
    )
    rows = datasets.load_dataset("parquet", data_files=str(data), split="train", cache_dir=f"{ours.output_dir}/cache")
    rows = rows.cast_column("images", datasets.List(datasets.Image()))
    trainer = SFTTrainer(model=copy.deepcopy(model), args=config, train_dataset=rows, processing_class=processor)
    times = StepTimes(lambda: trainer.state.global_step * batch)
    trainer.add_callback(times)
    trainer.train()
    return times.rates(WARM_UP)


def measure(scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of both, in turns."""
    recipe = recipe_for(scratch, scratch / "out", args)
    processor = build_processor(recipe.model)
    data, count = write_conversations(scratch, processor, args)
    recipe = recipe_for(data, scratch / "out", args)
    model = build_model(recipe.model, processor)
    mean = samples_of_a_step(recipe)
    batch = round(mean)
    progress(
        f"{count} conversations of at most {args.max_length} tokens; FineViT's step has {mean:.1f}, TRL's {batch}"
    )
    contenders: dict[str, Callable[[], Seconds]] = {
        "trl": lambda: train_trl(recipe, model, data, batch),
        "finevit": lambda: train_finevit(recipe, model),
    }
    rates: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for turn in range(args.turns):
        for name, train in contenders.items():
            rates[name].append(train())
        said = ", ".join(f"{name} {of[-1].wall:.2f} ({of[-1].cpu:.2f} a CPU second)" for name, of in rates.items())
        progress(f"turn {turn + 1} of {args.turns}, samples/s: {said}")
    pairs = list(zip(rates["finevit"], rates["trl"], strict=True))
    return {
        "conversations": count,
        "samples_of_a_step": {"finevit": mean, "trl": batch},
        "samples_per_s": {name: [one._asdict() for one in of] for name, of in rates.items()},
        "ratios": {key: [getattr(a, key) / getattr(b, key) for a, b in pairs] for key in Seconds._fields},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--edge", type=int, default=448, help="most pixels: the square of this")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens of FineViT's rows, and of a conversation")
    parser.add_argument("--rows", type=int, default=1, help="rows of FineViT's step")
    parser.add_argument("--steps", type=int, default=8, help="of each training")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_trl")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    prepare_process(1)
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(Path(scratch), args)
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, **results}
    write_figures(report, args.out)
    for clock, ratios in results["ratios"].items():
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}"
        print(f"FineViT trains on {statistics.median(ratios):.2f}x the samples a second of {clock} time ({spread})")
    return report


if __name__ == "__main__":
    main()
