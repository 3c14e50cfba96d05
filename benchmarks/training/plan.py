"""What planning costs: a million records, the share of real tokens, and the share of a step of the demo's recipe.

    python -m benchmarks.training.plan                        # a minute and a half
    python -m benchmarks.training.plan --records 10000000

- `million`: the order and the packs of an epoch, planned from lengths. Lengths are drawn from those of real drafts
  (photographs with FineCap's texts, pages of level base, at `--max-pixels`). Says seconds, the most that
  this process's memory grew by (after half of the rounds and after all), and the share of real tokens in the rows.
- `demo`: the recipe sft/nano_cpu over `--rows` rows of the corpus at level nano. The main process's time in the plan
  and its queue, per step, as a share of the CPU and the wall-clock time of a real training step (one thread).
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.measuring import Seconds, add_out, conditions, progress, timed, write_figures
from benchmarks.training.records import mixed_records, reader_of, write_records
from benchmarks.training.steps import StepTimes
from finecap.corpus.build import build_corpus
from finevit.demo import BASE, KINDS, SEED
from finevit_training.data.loader import PackedLoader, Position
from finevit_training.data.order import DEPTH, LARGE_WINDOW, Order, RoundKey
from finevit_training.data.plan import Pack, Sized, plan_round
from finevit_training.data.tasks import Idle, Measure
from finevit_training.process import prepare_process
from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from finevit_vl import FineViTVLProcessor, build_qwen_tokenizer
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTImageProcessor

PACKAGES = ("torch", "transformers", "trl", "numpy", "pyarrow")
ROWS_OF_PART = 64
WARM_UP = 4  # steps


def resident_megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


def real_lengths(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Tokens and patches of the drafts of mixed records."""
    processor = FineViTVLProcessor.from_vision_text_pretrained(FineViTImageProcessor(), build_qwen_tokenizer(1024))
    set_pixel_budget(processor.image_processor, max_pixels=args.max_pixels)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_records(mixed_records(args.pictures, args.seed), Path(scratch, "records"))
        reader = reader_of(folder, processor, args.max_length, args.seed)
        rounds = [RoundKey(0, number) for number in range(reader.order.num_rounds(0))]
        windows = [window for key in rounds for window in reader.order.windows(key)]
        found = [draft for window in windows for draft in reader.drafts(window, 0.0).drafts]
    return [(len(draft), draft.patches) for draft in found]


def plan_into(planned: list[Pack], windows: list[list[Sized]], capacity: int, seed: tuple[int, ...]) -> None:
    planned += plan_round(windows, capacity, 1, seed)


def million(lengths: list[tuple[int, int]], args: argparse.Namespace) -> dict[str, Any]:
    """Plans an epoch of `--records` rows round by round, as a run does."""
    stream = random.Random(args.seed)
    before, parts, done = resident_megabytes(), -(-args.records // ROWS_OF_PART), 0
    seconds, real, packs, grown = [], 0, 0, []
    start = time.perf_counter()
    order = Order([ROWS_OF_PART] * parts, [1.0] * parts, args.seed, LARGE_WINDOW, DEPTH)
    rounds = order.num_rounds(0)
    ordered = time.perf_counter() - start
    for number in range(rounds):
        key, windows = RoundKey(0, number), []
        for window in order.windows(key):
            keys = order.row_keys(window, [ROWS_OF_PART] * len(order.pieces(window)))
            windows.append([Sized(row, *stream.choice(lengths)) for row in keys])
        planned: list[Pack] = []
        seconds.append(timed(partial(plan_into, planned, windows, args.max_length, (args.seed, *key))))
        packs, done = packs + len(planned), done + sum(map(len, windows))
        real += sum(pack.tokens for pack in planned)
        grown.append(resident_megabytes() - before)
        if number % max(1, rounds // 4) == 0:
            progress(f"turn {number + 1} of {rounds}: {done:,} records in {packs:,} rows of {args.max_length} tokens")
    return {
        "records": done,
        "rounds": rounds,
        "rows_of_tokens": packs,
        "share_of_real_tokens": real / (packs * args.max_length),
        "order_s": ordered,
        "plan_cpu_s": sum(took.cpu for took in seconds),
        "plan_wall_s": sum(took.wall for took in seconds),
        "all_wall_s": time.perf_counter() - start,
        "most_wall_s_of_a_round": max(took.wall for took in seconds),
        "grew_by_mb": {"first_half": max(grown[: -(-rounds // 2)]), "whole": max(grown)},
        "drafts_measured": len(lengths),
    }


def plan_alone(loader: PackedLoader) -> tuple[Seconds, int, int]:
    """Time between the tasks that the main process puts into the queue, packs and real tokens of an epoch."""
    spent, packs, real, items, ended = Seconds(0.0, 0.0), 0, 0, loader._packs(Position()), object()
    last: Any = None

    def advance() -> None:
        nonlocal last
        last = next(items, ended)

    def tasks() -> Iterator[Any]:
        nonlocal spent, packs, real
        while True:
            took = timed(advance)
            spent = Seconds(spent.wall + took.wall, spent.cpu + took.cpu)
            if last is ended:
                return
            if last is None or isinstance(last, Measure | Idle):
                yield last
            else:
                packs, real = packs + 1, real + sum(sample.tokens for sample in last.samples)

    for _ in loader._results(tasks()):
        pass
    return spent, packs, real


def demo(args: argparse.Namespace) -> dict[str, Any]:
    """The share of planning in a step of the demo's recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "corpus")
        build_corpus(folder, args.rows, seed=SEED, difficulty="nano", kinds=KINDS)
        flags = {"recipe": "sft/nano_cpu", "model": BASE, "data": folder, "max_steps": args.steps, "cpu_threads": 1}
        flags |= {"output_dir": Path(scratch, "out"), "save_total_limit": 1}
        recipe = parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))])
        prepare_process(recipe.training.cpu_threads)
        trainer, times = build_trainer(recipe), StepTimes()
        shape = trainer.loader.shape
        spent, packs, real = plan_alone(PackedLoader(trainer.loader.reader, shape, lambda key, step: 0.0))
        progress(f"{packs:,} rows of the demo's corpus are planned in {spent.wall:.2f} s")
        trainer.add_callback(times)
        trainer.train()
    step = times.medians(WARM_UP)
    planning = Seconds(*(seconds / packs * shape.step for seconds in spent))
    return {
        "rows_of_tokens": packs,
        "share_of_real_tokens": real / (packs * shape.capacity),
        "step": step._asdict(),
        "planning_of_a_step": planning._asdict(),
        "share": {name: getattr(planning, name) / getattr(step, name) for name in Seconds._fields},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=1_000_000, help="that are planned from their lengths")
    parser.add_argument("--pictures", type=int, default=64, help="whose drafts give the lengths")
    parser.add_argument("--max-pixels", type=int, default=448**2)
    parser.add_argument("--max-length", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=1500, help="of the demo's corpus")
    parser.add_argument("--steps", type=int, default=24, help="of the demo's training")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_plan")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.set_num_threads(1)
    lengths = real_lengths(args)
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # where no memory is free that was used before
        planned = fresh.submit(million, lengths, args).result()
    report = {
        **conditions(PACKAGES),
        "setting": {key: str(value) for key, value in vars(args).items() if key != "out"},
        "million": planned,
        "demo": demo(args),
    }
    write_figures(report, args.out)
    share = report["demo"]["share"]
    speed = f"{planned['all_wall_s']:.0f} s, of which packing {planned['plan_cpu_s']:.0f} s CPU"
    print(f"{planned['records']:,} records: {speed}; {planned['grew_by_mb']['whole']:.0f} MB more")
    print(f"{planned['share_of_real_tokens']:.1%} of the tokens in their rows are real")
    print(f"planning is {share['cpu']:.2%} of a step's CPU time and {share['wall']:.2%} of its wall-clock time")
    return report


if __name__ == "__main__":
    main()
