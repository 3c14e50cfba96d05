"""The paper's claims at a small size: trains every run of the ladder, measures it and says what became of each claim.

python -m benchmarks.ladder --size nano --seeds 0 1 2     # resumable: what is done stays done
python -m benchmarks.ladder --size smoke                  # everything, a few steps each
"""

import argparse
from pathlib import Path

from benchmarks.ladder.arms import with_needs
from benchmarks.ladder.measuring import measure
from benchmarks.ladder.report import write_report
from benchmarks.ladder.running import Ladder, build_data, train
from benchmarks.ladder.sizes import SIZES


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    ladders = [Ladder(args.size, seed, (args.out / args.size).absolute()) for seed in args.seeds]
    build_data(ladders[0])
    for ladder in ladders:
        for run in train(ladder, with_needs(args.only or list(ladder.runs), ladder.runs)):
            measure(ladder, run)
            write_report(args.report or args.out, args.size, ladders)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ladder", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="RUN", help="these runs and what they need; all by default")
    parser.add_argument("--out", type=Path, default=Path("outputs/ladder"), help="where data and models go")
    parser.add_argument("--report", type=Path, help="where figures, table and pictures go; beside the models")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
