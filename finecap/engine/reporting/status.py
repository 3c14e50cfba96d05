"""How far a run is, from its folder alone: on any machine, while it runs or long after.

Only listings and the footers of outputs are read, never rows: work and memory grow with the shards, not the images.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.engine.captioners.spend import spent
from finecap.engine.contract import Pass
from finecap.engine.counters import COMPLETION_TOKENS, NOTHING_TO_SAY, PROMPT_TOKENS
from finecap.engine.running.one_shard import STATS_KEY, Run, ShardStats
from finecap.engine.running.opening import left_out

# Footers are small reads that wait on the file system: threads help on a network file system.
READERS = 8
# How far back the time left looks for how many workers there are: runs get more and fewer of them.
RECENT_SECONDS = 3600.0


@dataclass
class PassSummary:
    """One pass over all shards.

    Attributes:
        done, shards: finished shards, and all of them.
        reduced: has it looked at the whole collection? None for passes that need not.
        rows: live rows it saw.
        rejects: images it dropped, by kind.
        seconds: worker time of the finished shards.
        wall_seconds: time in which at least one of these shards was worked on.
        rows_per_second, tokens_per_second: over `wall_seconds`; tokens are prompt and completion together.
        counters: sums of the pass's own figures.
        tracebacks: the first one of each type of exception that ended a row.
        set_aside: shards that failed too often, with the last line of the last error.
        journals, journal_answers: unfinished shards with paid answers, and how many answers wait there.
    """

    name: str
    done: int
    shards: int
    reduced: bool | None
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    wall_seconds: float = 0.0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    journals: int = 0
    journal_answers: int = 0


@dataclass
class Summary:
    """A whole run.

    Attributes:
        images: that were ingested so far; always records + rejected + under_way.
        records: in packed shards.
        rejected: images that ended in a reject.
        under_way: images that are in neither yet.
        problems: shards whose passes do not add up; empty unless somebody touched the files.
        left_out: shards that were left out for good; their images are counted nowhere.
        requests, prompt_tokens, completion_tokens, dollars: paid for, answers of lost work included.
        seconds_left: estimated seconds that remain: shards left, times the mean time of a shard, over the recent
            number of workers. Only passes with a finished shard count. Time spent waiting for `reduce` steps is not
            included. None before the first shard is finished.
        unknown_left: passes with shards left and none finished, so that `seconds_left` is without them.
        idle_seconds: since the last shard was finished.
    """

    out: str
    passes: list[PassSummary]
    images: int
    records: int
    rejected: int
    under_way: int
    problems: list[str]
    left_out: list[str]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float
    seconds_left: float | None
    unknown_left: list[str]
    idle_seconds: float | None

    @property
    def finished(self) -> bool:
        """Has every pass done every shard?"""
        return all(one.done == one.shards for one in self.passes)


class _Output(NamedTuple):
    """What a footer says, and when the file was committed (seconds since the epoch)."""

    stats: ShardStats
    rows: int
    committed: float


def summarise(run: Run, now: float | None = None) -> Summary:
    """Read how far a run is.

    Args:
        now: seconds since the epoch; the clock by default.

    Raises:
        ValueError: an output is no parquet file of the engine; the message names it.
    """
    steps = run.recipe.enabled()
    outputs: dict[str, dict[str, _Output]] = {}
    passes: list[PassSummary] = []
    with ThreadPoolExecutor(READERS) as readers:
        for step in reversed(steps):  # children first: whatever they were made of is there when the parents are read
            outputs[step.name] = _read_outputs(run, step, readers)
            passes.insert(0, _summarise_pass(run, step, outputs[step.name]))
    ledger = spent(run.store.out)
    images, records, rejected, problems = _balance(run, steps, outputs)
    spans = [
        (one.committed - one.stats.seconds, one.committed) for there in outputs.values() for one in there.values()
    ]
    return Summary(
        out=str(run.store.out),
        passes=passes,
        images=images,
        records=records,
        rejected=rejected,
        under_way=images - records - rejected,
        problems=problems,
        left_out=left_out(run.store.out),
        requests=ledger.requests,
        prompt_tokens=ledger.prompt_tokens,
        completion_tokens=ledger.completion_tokens,
        dollars=ledger.dollars,
        seconds_left=seconds_left(passes, spans),
        unknown_left=[one.name for one in passes if one.done == 0 < one.shards],
        idle_seconds=(time.time() if now is None else now) - max(end for _, end in spans) if spans else None,
    )


def _read_outputs(run: Run, step: Pass, readers: ThreadPoolExecutor) -> dict[str, _Output]:
    names = {shard.name for shard in run.shards}
    paths = [path for path in _entries(run, step) if path.name.removesuffix(".parquet") in names]
    return {one.stats.shard: one for one in readers.map(_read_output, (path for path in paths))}


def _entries(run: Run, step: Pass) -> Iterator[Path]:
    """The files of a pass, without those that are being written."""
    folder = run.store.folder(run.recipe.pass_key(step.name))
    if folder.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith("."))


def _read_output(path: Path) -> _Output:
    try:
        footer = pq.read_metadata(path)
        stats = ShardStats(**json.loads(footer.metadata[STATS_KEY]))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an output of the caption engine ({error}); delete it and run again") from error
    return _Output(stats, footer.num_rows, path.stat().st_mtime)


def _summarise_pass(run: Run, step: Pass, outputs: dict[str, _Output]) -> PassSummary:
    reduced = run.reduced(step.name).exists() if step.reduce else None
    summary = PassSummary(step.name, len(outputs), len(run.shards), reduced)
    rejects: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    for one in outputs.values():
        summary.rows += one.stats.rows
        summary.seconds += one.stats.seconds
        rejects.update(one.stats.rejects)
        counters.update(one.stats.counters)
        summary.tracebacks = one.stats.tracebacks | summary.tracebacks
    if silent := counters.pop(NOTHING_TO_SAY, 0):
        rejects[NOTHING_TO_SAY.removeprefix("rejected: ")] += silent
    summary.rejects, summary.counters = dict(rejects.most_common()), dict(sorted(counters.items()))
    summary.wall_seconds = _union((one.committed - one.stats.seconds, one.committed) for one in outputs.values())
    if summary.wall_seconds > 0:
        summary.rows_per_second = summary.rows / summary.wall_seconds
        tokens = counters[PROMPT_TOKENS] + counters[COMPLETION_TOKENS]
        summary.tokens_per_second = tokens / summary.wall_seconds
    # A worker that dies right after a commit leaves such files of a shard that is done; others are of shards left out.
    waiting = {shard.name for shard in run.shards}.difference(outputs) | ({"reduced"} if reduced is False else set())
    for path in sorted(_entries(run, step)):
        name, _, suffix = path.name.partition(".")
        if name not in waiting:
            continue
        if suffix == "error.json":
            summary.set_aside[name] = _last_error(path)
        elif suffix == "journal.jsonl":
            summary.journals += 1
            summary.journal_answers += _count_lines(path)
    return summary


def _last_error(path: Path) -> str:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["errors"][-1].strip().splitlines()[-1]
    except FileNotFoundError:
        return "(being tried again)"


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(line.endswith(b"}\n") for line in file)
    except FileNotFoundError:  # its shard was committed just now
        return 0


def _balance(
    run: Run, steps: tuple[Pass, ...], outputs: dict[str, dict[str, _Output]]
) -> tuple[int, int, int, list[str]]:
    """Images, records and rejected images of all shards that were ingested, and what does not add up."""
    ancestors = {step.name: run.recipe.ancestors(step.name) for step in steps}
    images = records = rejected = 0
    problems: list[str] = []
    for shard in run.shards:
        there = {name: found[shard.name] for name, found in outputs.items() if shard.name in found}
        if steps[0].name not in there:
            continue
        problems += [f"{shard.name}: {text}" for text in _problems(steps, there, ancestors)]
        images += there[steps[0].name].rows
        if steps[-1].name in there:
            records += there[steps[-1].name].rows
            rejected += there[steps[0].name].rows - there[steps[-1].name].rows
        else:
            rejected += sum(_dropped(one) for one in there.values())
    return images, records, rejected, problems


def _problems(steps: tuple[Pass, ...], there: dict[str, _Output], ancestors: dict[str, tuple[str, ...]]) -> list[str]:
    """Passes of one shard that did not see just the rows that the passes before it left alive.

    Behind several parents that know nothing of each other this is a range, as both may drop the same image.
    """
    found = []
    images = there[steps[0].name].rows
    for step in steps[1:]:
        if step.name not in there:
            continue
        if missing := [name for name in step.parents if name not in there]:
            found.append(f"{step.name} is done and {missing[0]}, which it was made of, is gone")
            continue
        most = min(there[name].stats.rows - _dropped(there[name]) for name in step.parents)
        least = images - sum(_dropped(there[name]) for name in ancestors[step.name] if name in there)
        one = there[step.name]
        written = images if step.aligned else one.stats.rows - _dropped(one)
        if not least <= one.stats.rows <= most or one.rows != written:
            alive = f"{most}" if least == most else f"{least} to {most}"
            found.append(f"{step.name} saw {one.stats.rows} rows and wrote {one.rows}; {alive} of {images} were alive")
    return found


def _dropped(one: _Output) -> int:
    """Images that a pass dropped; packing says so among its counters."""
    return sum(one.stats.rejects.values()) + one.stats.counters.get(NOTHING_TO_SAY, 0)


def seconds_left(passes: list[PassSummary], spans: list[tuple[float, float]]) -> float | None:
    """Worker seconds of the shards left, each as the finished ones of its pass took on average, over the workers.

    Args:
        passes: those without a finished shard count nothing.
        spans: start and end of the work on each finished shard, seconds since the epoch. The number of workers is
            how many overlap, on average over the time in which there was at least one, in the last hour of work.
    """
    if not spans:
        return None
    since = max(end for _, end in spans) - RECENT_SECONDS
    recent = [(max(start, since), end) for start, end in spans if end > since]
    busy = _union(recent)
    work = sum((one.shards - one.done) * one.seconds / one.done for one in passes if one.done)
    workers = sum(end - start for start, end in recent) / busy if busy > 0 else 1.0
    return work / workers


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what the spans cover together; a pause between two starts of a run does not count."""
    length, covered = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return length


def format_status(summary: Summary) -> str:
    """The summary for a terminal of 100 columns."""
    lines = [f"{summary.out}: {_state(summary)}", *_totals(summary), "", _HEAD]
    lines += [_pass_line(one) for one in summary.passes]
    if any(one.reduced is False for one in summary.passes):
        lines.append("(*) has yet to look at the whole collection")
    lines += _details("rejected", {one.name: one.rejects for one in summary.passes})
    lines += _details("counted", {one.name: one.counters for one in summary.passes})
    for one in summary.passes:
        for text in one.tracebacks.values():
            lines += ["", f"a row failed in {one.name}; the first of its kind is", *text.rstrip().splitlines()]
    set_aside = [f"  {one.name} {shard}: {error}" for one in summary.passes for shard, error in one.set_aside.items()]
    lines += _shards("set aside; the same command tries them again", set_aside)
    lines += _shards("left out for good", [f"  {name}" for name in summary.left_out])
    lines += _shards("does not add up; delete these shards and run again", [f"  {text}" for text in summary.problems])
    return "\n".join(lines)


_HEAD = f"{'pass':<15}{'shards':>15}{'rows':>15}{'rejected':>12}{'rows/s':>10}{'tokens/s':>11}{'worker time':>14}"
# Failed shards that are shown: all may have failed, for instance when a detector was down.
MOST_SHARDS = 20


def _state(summary: Summary) -> str:
    if summary.finished:
        return "every pass is done"
    if summary.idle_seconds is None:
        return "no shard is finished yet"
    return f"last shard finished {_duration(summary.idle_seconds)} ago"


def _totals(summary: Summary) -> list[str]:
    lines = [
        f"images     {summary.images:,} = {summary.records:,} records + {summary.rejected:,} rejected "
        f"+ {summary.under_way:,} under way",
        f"paid       {summary.requests:,} requests, {summary.prompt_tokens:,} prompt + "
        f"{summary.completion_tokens:,} completion tokens, ${summary.dollars:,.2f}",
    ]
    if summary.seconds_left is not None and not summary.finished:
        known = f"about {_duration(summary.seconds_left)}" if summary.seconds_left else "not known yet"
        without = f", without {', '.join(summary.unknown_left)}: no shard finished" if summary.unknown_left else ""
        lines.append(f"time left  {known}{without}")
    if waiting := sum(one.journal_answers for one in summary.passes):
        shards = sum(one.journals for one in summary.passes)
        lines.append(f"journals   {waiting:,} paid answers of {shards:,} unfinished shards")
    return lines


def _pass_line(one: PassSummary) -> str:
    name = one.name if one.reduced is not False else f"{one.name} (*)"
    tokens = f"{one.tokens_per_second:,.0f}" if one.tokens_per_second else "-"
    rate = f"{one.rows_per_second:,.1f}" if one.rows_per_second else "-"
    return (
        f"{name:<15}{f'{one.done:,}/{one.shards:,}':>15}{one.rows:>15,}{sum(one.rejects.values()):>12,}"
        f"{rate:>10}{tokens:>11}{_duration(one.seconds):>14}"
    )


def _details(title: str, figures: dict[str, dict[str, int]]) -> list[str]:
    lines = [
        f"  {name + ' ' + kind:<60}{count:>14,}" for name, found in figures.items() for kind, count in found.items()
    ]
    return ["", title, *lines] if lines else []


def _shards(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - MOST_SHARDS:,} more"] if len(lines) > MOST_SHARDS else []
    return ["", title, *lines[:MOST_SHARDS], *more]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds / 86400:.1f} days"
