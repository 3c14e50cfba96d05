"""The batches of a run, from planned packs, and a position in the run that is a few integers.

Loader processes do two kinds of work in one queue: they make drafts of the windows of a round (texts and lengths, no
pictures), and later batches of the packs that the main process has planned from those lengths. A round is measured
while the one before it is trained on. Results come back in the order of the tasks, so what is trained on depends
neither on the number of loader processes nor on their speed.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from finevit_training.data.bad_records import UnusableData, counted, reason_kind
from finevit_training.data.order import RoundKey, WindowKey, lanes_of
from finevit_training.data.plan import Pack, plan_round
from finevit_training.data.reader import Drafts, Planned, Reader, Skip
from finevit_training.data.tasks import Answers, Idle, Make, Measure, Round, Task
from finevit_training.data.written_plan import WrittenPlan


class Position(NamedTuple):
    """Where a run is: `pack` packs of a round are trained on, and `packs` and `samples` of the whole run."""

    epoch: int = 0
    round: int = 0
    pack: int = 0
    packs: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Shape:
    """How packs become steps.

    Args:
        capacity: tokens of a row.
        rows: rows of a micro-batch on one device.
        accumulation: micro-batches of a step on one device.
        ranks, rank: devices that train, and which of them this is.
    """

    capacity: int
    rows: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0

    @property
    def step(self) -> int:
        """Packs of an optimizer step."""
        return self.rows * self.accumulation * self.ranks

    @property
    def lanes(self) -> int:
        """Parts of a step that are taken from one window each."""
        return lanes_of(self.step)

    def owner(self, lane: int) -> int:
        """The rank that trains on (most of) a lane."""
        return lane % self.lanes * self.ranks // self.lanes


class _Begin(NamedTuple):
    """A round, and the step that it begins in."""

    key: RoundKey
    step: int


class _Placed(NamedTuple):
    """A pack, where the run is after it, and the round that comes after the pack's own."""

    samples: list[Planned]
    after: Position
    following: _Begin


def _as_it_is(result: Any) -> Any:
    return result


class PackedLoader:
    """The micro-batches of one rank for a whole run, from a `Position` on.

    Every rank makes the drafts of its own windows only and learns the lengths of the others' by `exchange`, a
    collective that all ranks call between the same two batches.

    Args:
        reader: makes drafts and batches.
        shape: how packs become steps.
        fraction: how far the training is (0 to 1) when a round begins, given its key and the step that it begins in.
        steps: optimizer steps of the whole run; without it, the run ends after `epochs` passes over the data, and its
            last step is filled up with empty rows.
        plan: rounds that it holds are not measured, and every rank reads all their lengths in it; what comes after
            them is measured. The batches are the same.
        exchange: gathers one object of every rank.
        on_rows: is told how many rows were read and which of them are left out.
        workers: loader processes; 0 to load in this one.
        options: for the `DataLoader`.
    """

    def __init__(
        self,
        reader: Reader,
        shape: Shape,
        fraction: Callable[[RoundKey, int], float],
        steps: int | None = None,
        epochs: int = 1,
        plan: WrittenPlan | None = None,
        exchange: Callable[[Any], list[Any]] = lambda mine: [mine],
        on_rows: Callable[[int, list[Skip]], None] = lambda tried, skipped: None,
        workers: int = 0,
        **options: Any,
    ) -> None:
        self.reader, self.order = reader, reader.order
        self.shape = shape
        self.fraction = fraction
        self.steps, self.epochs = steps, epochs
        self.plan = plan
        self.exchange, self.on_rows = exchange, on_rows
        self.workers, self.options = workers, options
        self._together = max(1, workers)
        self.position = Position()
        # What is on its way, in order: the last pack of each step, and None for a micro-batch that ends no step.
        self._pending: deque[_Placed | None] = deque()
        self._left_out: Counter[str] = Counter()
        self._fractions: dict[RoundKey, float] = {}
        self._rounds: dict[RoundKey, Round] = {}

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("how many batches a pass over the data has is known when it is planned, see count_packs")
        return self.steps * self.shape.accumulation

    def state_dict(self) -> dict[str, Any]:
        """Where the run is after the last step whose batches were all given, how far it was when the rounds from there
        on were begun, and what its packs depend on.
        """
        fractions = [[*key, value] for key, value in self._fractions.items() if key >= self.position[:2]]
        return {**self.position._asdict(), "fractions": fractions, **self._plan()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there, on any number of ranks and loader processes whose steps have as many packs.

        Raises:
            ValueError: the packs of this run are not those of the saved one.
        """
        self.refuse_other_packs(state)
        self.position = Position(**{name: state[name] for name in Position._fields})
        self._fractions = {RoundKey(epoch, number): value for epoch, number, value in state["fractions"]}

    def refuse_other_packs(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the packs of this run are not those of the saved one."""
        here = self._plan()
        if state["step"] != here["step"]:
            raise ValueError(
                f"a step has {here['step']} packs here and {state['step']} in the saved run, so it would lose samples "
                "or see some twice: choose per_device_train_batch_size and gradient_accumulation_steps so that their "
                f"product with the number of ranks is {state['step']}, or start again from the weights with `model`"
            )
        if state["capacity"] != here["capacity"]:
            raise ValueError(
                f"a row holds {here['capacity']} here and {state['capacity']} in the saved run, so its packs are "
                f"others: set max_length (in stage I max_patches) to {state['capacity']}, or start again from the "
                "weights with `model`"
            )
        if state["order"] != here["order"]:
            raise ValueError(
                "the saved run had another seed, other files or other weights of its sources, so its rows were in "
                "another order: set them as they were, or start again from the weights with `model`"
            )
        if state.get("questions") != here["questions"]:
            raise ValueError(
                "the saved run had another mixture, max_turns, isolate_turns, wordings, captions, tokenizer, chat "
                "template or picture size, so its samples had other lengths and a round would lose some or see them "
                "twice: set them as they were, or start again from the weights with `model`"
            )

    def _plan(self) -> dict[str, int]:
        """What the packs of a run depend on."""
        reader = self.reader
        return {
            "step": self.shape.step,
            "capacity": self.shape.capacity,
            "order": reader.fingerprint,
            "questions": reader.questions,
        }

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        self._pending.clear()
        for batch, skipped in self._results(self._tasks()):
            self.on_rows(0, skipped)
            if last := self._pending.popleft():
                self.position = last.after
                self._time(last.following)
            yield batch

    def _time(self, begin: _Begin) -> None:
        """Reads how far the training is for a round, unless it was read before.

        That is done where a batch is given and not where a task is made: how far ahead of the training tasks are made
        is not the same in a run that goes on.
        """
        self._fractions = {key: value for key, value in self._fractions.items() if key >= self.position[:2]}
        if begin.key not in self._fractions:
            self._fractions[begin.key] = self.fraction(*begin)

    def count_packs(self) -> int:
        """Packs of `epochs` passes over the data, planned from the texts alone."""
        packs = 0

        def tasks() -> Iterator[Task]:
            nonlocal packs
            for item in self._packs(Position()):
                if isinstance(item, _Placed):
                    packs += 1
                else:
                    yield item

        for _ in self._results(tasks()):
            pass
        return packs

    def _results(self, tasks: Iterator[Task]) -> Iterator[tuple[Mapping[str, Any], list[Skip]]]:
        self._rounds.clear()
        results: Any = DataLoader(
            Answers(self.reader),
            sampler=tasks,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            **self.options,
        )
        for result in results:
            if isinstance(result, Drafts):
                if result.window.epoch == self.position.epoch:  # each row once
                    self._left_out.update(reason_kind(skip.reason) for skip in result.skipped)
                self.on_rows(result.tried, result.skipped)
                next(one for one in self._rounds.values() if result.window in one.awaited).receive(result)
            elif isinstance(result, Idle):
                self._rounds[result.round].idle -= 1
            elif result is not None:
                yield result

    def _tasks(self) -> Iterator[Task]:
        """This rank's tasks. Every rank has as many between the same two steps, so that collectives meet."""
        step: list[_Placed] = []
        left = math.inf if self.steps is None else self.steps - self.position.packs // self.shape.step
        for item in self._packs(self.position):
            if not isinstance(item, _Placed):
                yield item
                continue
            step.append(item)
            if len(step) == self.shape.step:
                yield from self._make(step)
                step, left = [], left - 1
            if left <= 0:
                return
        if step:
            nothing = step[-1]._replace(samples=[])
            yield from self._make(step + [nothing] * (self.shape.step - len(step)))

    def _make(self, step: list[_Placed]) -> Iterator[Make]:
        """This rank's micro-batches of a step. A run is resumed between steps, so only the last moves its position."""
        rows, accumulation = self.shape.rows, self.shape.accumulation
        first = self.shape.rank * accumulation * rows
        for start in range(first, first + accumulation * rows, rows):
            self._pending.append(step[-1] if start + rows == first + accumulation * rows else None)
            yield Make([placed.samples for placed in step[start : start + rows]])

    def _packs(self, start: Position) -> Iterator[Measure | Idle | _Placed | None]:
        """All packs from a position on, of all ranks, and what must be measured before they can be planned."""
        key, skip, before = RoundKey(start.epoch, start.round), start.pack, start.packs - start.pack
        seen = start.samples
        self._time(_Begin(key, before // self.shape.step))
        yield from self._opened(key, before)
        barren = 0
        while True:
            yield from self._waiting(self._is_awaited, key)
            this = self._rounds.pop(key)
            packs = self._planned(key, this)
            following = _Begin(self.order.after(key), (before + len(packs)) // self.shape.step)
            is_last = self.steps is None and following.key.epoch >= self.epochs
            opening = iter(()) if is_last else self._opened(following.key, before + len(packs))
            for number, pack in enumerate(packs[skip:], start=skip + 1):
                place = (*following.key, 0) if number == len(packs) else (*key, number)
                samples = [Planned(s.key, s.tokens, this.fraction, this.drafts.get(s.key)) for s in pack.samples]
                seen += len(samples)
                yield _Placed(samples, Position(*place, before + number, seen), following)
                if following.key in self._fractions:
                    yield from islice(opening, self._together)
            if is_last:
                return
            yield from self._waiting(self._is_to_be_timed, following.key)
            self._time(following)
            yield from opening
            barren = 0 if packs else barren + 1
            if barren > self.order.num_rounds(key.epoch):
                raise UnusableData(
                    f"nothing in `data` can be trained on: every row was left out ({counted(self._left_out)}). Mend "
                    f"the data{self.reader.examples.remedy}"
                )
            key, skip, before = following.key, 0, before + len(packs)

    def _waiting(self, lasts: Callable[[RoundKey], bool], key: RoundKey) -> Iterator[None]:
        """Nothing, again and again, while it lasts; as many times as a multiple of the loader processes."""
        turns = 0
        while lasts(key) or turns % self._together:
            turns += 1
            yield None

    def _is_awaited(self, key: RoundKey) -> bool:
        """Whether drafts of the round are on their way. Ranks with fewer windows wait as long as the others, else they
        would call `exchange` between other batches.
        """
        return bool(self._rounds[key].awaited or self._rounds[key].idle)

    def _is_to_be_timed(self, key: RoundKey) -> bool:
        """Whether batches are on their way with one of which the round's time will be read."""
        return key not in self._fractions and bool(self._pending)

    def _opened(self, key: RoundKey, packs_before: int) -> Iterator[Measure | Idle]:
        """The tasks that measure this rank's windows of a round: as many on all ranks, and a multiple of the loader
        processes, which take turns: so each goes on with the windows that it has begun.
        """
        if self.plan and (written := self.plan.round(key)):
            self._rounds[key] = Round(written.fraction, set(), written=written.sized)
            if self.shape.rank == 0:
                self.on_rows(written.tried, written.skipped)
            return
        fraction = self._fractions[key]
        phase = packs_before % self.shape.step * self.shape.lanes // self.shape.step
        of_ranks: list[list[WindowKey]] = [[] for _ in range(self.shape.ranks)]
        for lane, window in enumerate(self.order.windows(key), start=phase):
            of_ranks[self.shape.owner(lane)].append(window)
        mine = of_ranks[self.shape.rank]
        most = max(map(len, of_ranks))
        tasks = most + -most % self._together
        self._rounds[key] = Round(fraction, set(mine), tasks - len(mine))
        for number in range(tasks):
            yield Measure(mine[number], fraction) if number < len(mine) else Idle(key)

    def _planned(self, key: RoundKey, this: Round) -> list[Pack]:
        sized = this.sized
        if self.shape.ranks > 1 and not this.is_written:
            sized = {window: rows for of_rank in self.exchange(this.sized) for window, rows in of_rank.items()}
        windows = [sized[window] for window in self.order.windows(key)]
        shape = self.shape
        return plan_round(windows, shape.capacity, shape.step // shape.lanes, (self.order.seed, *key))
