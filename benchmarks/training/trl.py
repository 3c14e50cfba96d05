"""FineViT's training against stock TRL: the same pictures, questions and answers, model, optimizer and loss.

    python -m benchmarks.training.trl                         # two turns of both cases, five minutes
    python -m benchmarks.training.trl --cases isolated --pictures 400 --turns 5

A sample is a picture with all its questions: photographs (the longer side 100 pixels to `--edge`) and, a quarter,
pages at level base. TRL is its SFTTrainer with its own collator, `datasets`, and padding to the longest row of a
batch; it trains on answers alone, as FineViT does, and reads `messages` and `images`.

- `in_context`: questions follow one another and see those before them. A sample is one row for TRL, and FineViT reads
  the same file.
- `isolated`: each question is trained on as if it were alone with its picture. TRL can do that with a row for each,
  whose picture it encodes again; FineViT reads FineCap records with `isolate_turns` and encodes a picture once.

TRL's batch has as many questions as FineViT's step has on average. Both train one epoch in bfloat16 autocast, one
thread, no loader process, no gradient checkpointing, in turns within one process and from the same weights. Samples a
second by either clock, without the first step. Before that, both compute the loss of FineViT's first batches in
float32, and if they differ, nothing is measured.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from trl import SFTConfig, SFTTrainer

from benchmarks.measuring import Seconds, add_out, conditions, progress, write_figures
from benchmarks.training.records import MOST_TURNS, mixed_records, reader_of, write_records
from benchmarks.training.steps import StepTimes
from finecap.sources.rows import Row
from finevit_training.data.order import RowKey
from finevit_training.examples.chat import messages
from finevit_training.process import prepare_process
from finevit_training.recipe import Recipe, parse_recipe
from finevit_training.stages.sft.model import build_model, build_processor
from finevit_training.stages.sft.stage import build_trainer
from finevit_vl import FineViTVLProcessor

CASES = ("in_context", "isolated")
PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "pillow")
WARM_UP = 1
LEAST_SIDE = 100  # of a photograph's longer side, in pixels
COMPARED = 2  # batches whose loss both compute
TOLERANCE = 1e-5  # of the loss
# No boxes: in ready conversations, which come from strangers, the door refuses the tokens that they are written with.
MIXTURE = {"qa": 6, "transcribe": 0.5, "global_caption": 1}


class Samples(NamedTuple):
    """The same samples for both.

    Attributes:
        finevit: what FineViT reads.
        trl: the parquet file of `messages` and `images` that TRL reads.
        rows: the numbers of TRL's rows that are one sample, by the sample's id in FineViT.
    """

    finevit: Path
    trl: Path
    rows: dict[str, list[int]]

    @property
    def rows_of_sample(self) -> float:
        """TRL's, on average."""
        return sum(map(len, self.rows.values())) / len(self.rows)


def write_samples(folder: Path, processor: FineViTVLProcessor, isolated: bool, args: argparse.Namespace) -> Samples:
    """Draws records and writes what both read.

    Raises:
        ValueError: a sample is longer than a row of tokens, so FineViT would leave some of it out.
    """
    records = mixed_records(args.pictures, args.seed, (LEAST_SIDE, args.edge))
    pictures = {record["id"]: record["image"]["bytes"] for record in records}
    reader = reader_of(write_records(records, folder / "records"), processor, args.max_length, args.seed, MIXTURE)
    examples: Any = reader.examples
    samples = Samples(folder / ("records" if isolated else "train.parquet"), folder / "train.parquet", {})
    rows: list[dict[str, Any]] = []
    for row in (row for source, part in reader.parts for row in reader.sources[source].read_rows(part)):
        assert isinstance(row, Row)
        turns = examples.turns(row, RowKey(0, 0, 0, 0), 0.0)
        whole = messages(turns)
        patches = processor.image_processor.get_number_of_image_patches(row.sizes[0][1], row.sizes[0][0])
        tokens = len(examples.chat.encode(whole).input_ids) + patches // 4
        if tokens > args.max_length:
            raise ValueError(f"a sample has {tokens} tokens: give a larger --max-length, or a smaller --edge")
        shown = [messages([turn]) for turn in turns] if isolated else [whole]
        name = row.id if isolated else f"{samples.trl.name}#{len(rows)}"
        samples.rows[name] = list(range(len(rows), len(rows) + len(shown)))
        rows += [{"messages": one, "images": [{"bytes": pictures[row.id], "path": None}]} for one in shown]
    pq.write_table(pa.Table.from_pylist(rows), samples.trl, row_group_size=64)
    return samples


def recipe_for(data: Path, out: Path, isolated: bool, args: argparse.Namespace) -> Recipe:
    flags = {
        "size": "nano",
        "vocab_size": 1024,
        "max_pixels": args.edge**2,
        "data": data,
        "mixture": str(MIXTURE).replace("'", '"'),
        "max_turns": MOST_TURNS,
        "isolate_turns": isolated,
        "output_dir": out,
        "max_length": args.max_length,
        "num_train_epochs": 1,
        "per_device_train_batch_size": args.rows,
        "cpu_threads": 1,
        "bf16": True,
        "gradient_checkpointing": False,
        "logging_steps": 1000,
        "learning_rate": 1e-4,
        "seed": args.seed,
    }
    return parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))])


def finevit_trainer(recipe: Recipe, model: Any) -> Any:
    trainer = build_trainer(recipe)
    trainer.model.load_state_dict(model.state_dict())
    return trainer


def trl_trainer(recipe: Recipe, model: Any, data: Path, batch: int) -> Any:
    ours = recipe.training
    same = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "optim", "max_grad_norm", "seed")
    config = SFTConfig(
        output_dir=ours.output_dir,
        num_train_epochs=1,
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
    processor = build_processor(recipe.model)
    return SFTTrainer(model=copy.deepcopy(model), args=config, train_dataset=rows, processing_class=processor)


def compare_losses(recipe: Recipe, model: Any, samples: Samples) -> list[dict[str, float]]:
    """The loss of FineViT's first batches and that of the same samples in TRL, without a step in between.

    Raises:
        ValueError: they differ.
    """
    finevit, trl = finevit_trainer(recipe, model), trl_trainer(recipe, model, samples.trl, 1)
    losses = []
    for batch in islice(finevit.loader, COMPARED):
        rows = [trl.train_dataset[number] for name in batch["ids"] for number in samples.rows[name]]
        with torch.no_grad():
            of_both = {
                "finevit": float(finevit.compute_loss(finevit.model, batch)),
                "trl": float(trl.compute_loss(trl.model, trl.data_collator(rows))),
            }
        if abs(of_both["finevit"] / of_both["trl"] - 1) > TOLERANCE:
            raise ValueError(f"the same samples have another loss: {of_both}")
        losses.append(of_both)
    return losses


def train(trainer: Any, samples: Callable[[], float]) -> Seconds:
    times = StepTimes(samples)
    trainer.add_callback(times)
    trainer.train()
    return times.rates(WARM_UP)


def measure(scratch: Path, case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of both, in turns."""
    isolated = case == "isolated"
    processor = build_processor(recipe_for(scratch, scratch / "out", isolated, args).model)
    samples = write_samples(scratch, processor, isolated, args)
    recipe = recipe_for(samples.finevit, scratch / "out", isolated, args)
    model = build_model(recipe.model, processor)
    losses = compare_losses(recipe, model, samples)
    mean = len(samples.rows) / finevit_trainer(recipe, model).args.max_steps
    batch = round(mean * samples.rows_of_sample)
    progress(f"{case}: {len(samples.rows)} samples, {mean:.1f} in FineViT's step; TRL's batch has {batch} rows")

    def finevit() -> Seconds:
        trainer = finevit_trainer(recipe, model)
        return train(trainer, lambda: trainer.loader.position.samples)

    def trl() -> Seconds:
        trainer = trl_trainer(recipe, model, samples.trl, batch)
        rows = len(trainer.train_dataset)
        return train(trainer, lambda: min(rows, trainer.state.global_step * batch) / samples.rows_of_sample)

    rates: dict[str, list[Seconds]] = {"trl": [], "finevit": []}
    for turn in range(args.turns):
        rates["trl"].append(trl())
        rates["finevit"].append(finevit())
        said = ", ".join(f"{name} {of[-1].wall:.2f} ({of[-1].cpu:.2f} a CPU second)" for name, of in rates.items())
        progress(f"{case}, turn {turn + 1} of {args.turns}, samples/s: {said}")
    pairs = list(zip(rates["finevit"], rates["trl"], strict=True))
    return {
        "samples": len(samples.rows),
        "rows_of_sample_in_trl": samples.rows_of_sample,
        "of_a_step": {"finevit_samples": mean, "trl_rows": batch},
        "losses_of_first_batches": losses,
        "samples_per_s": {name: [one._asdict() for one in of] for name, of in rates.items()},
        "ratios": {key: [getattr(a, key) / getattr(b, key) for a, b in pairs] for key in Seconds._fields},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--cases", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--edge", type=int, default=448, help="most pixels: the square of this")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens of FineViT's rows, and of a conversation")
    parser.add_argument("--rows", type=int, default=1, help="rows of FineViT's step")
    parser.add_argument("--turns", type=int, default=2, help="of the contenders")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_trl")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    prepare_process(1)
    results = {}
    for case in args.cases:
        with tempfile.TemporaryDirectory() as scratch:
            results[case] = measure(Path(scratch), case, args)
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, "results": results}
    write_figures(report, args.out)
    for case, found in results.items():
        for clock, ratios in found["ratios"].items():
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}"
            middle = statistics.median(ratios)
            print(f"{case}: FineViT trains on {middle:.2f}x the samples a second of {clock} time ({spread})")
    return report


if __name__ == "__main__":
    main()
