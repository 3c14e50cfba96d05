"""Curves of a ladder: R@1 and loss of stage II over samples and over all FLOPs that were spent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.ladder.claims import SCORES

# Run of stage II -> the run of stage I that it paid for besides.
DRAWN = {"II_after_I": "I", "II_after_I_paper": "I_paper", "II": None, "II_equal_flops": None}


def draw_readings(seeds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A picture with three panels, means over seeds; nothing where no run of stage II is measured yet."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    by_samples, by_flops, losses = figure.subplots(1, 3)
    for name, first in DRAWN.items():
        own = [runs for runs in seeds if name in runs and runs[name]["scores"]]
        if not own:
            continue
        points = list(zip(*(runs[name]["scores"]["readings"] for runs in own), strict=True))
        paid = mean(runs[first]["trained"]["flops"] if first else 0.0 for runs in own)
        samples = [mean(one["samples"] for one in point) for point in points]
        flops = [(paid + mean(one["flops"] for one in point)) / 1e12 for point in points]
        hits = [100 * mean(SCORES["dense"](one["tasks"]) for one in point) for point in points]
        by_samples.plot(samples, hits, marker="o", label=name)
        by_flops.plot(flops, hits, marker="o", label=name)
        losses.plot(samples, [mean(one["loss"] for one in point) for point in points], marker="o", label=name)
    if not by_samples.lines:
        return
    by_samples.set(xlabel="pairs of stage II", ylabel="R@1 of dense captions, both ways (%)", ylim=(0, None))
    by_flops.set(xlabel="TFLOP of both stages", ylabel="R@1 of dense captions, both ways (%)", ylim=(0, None))
    losses.set(xlabel="pairs of stage II", ylabel="sigmoid loss per picture, training")
    for axes in (by_samples, by_flops, losses):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
