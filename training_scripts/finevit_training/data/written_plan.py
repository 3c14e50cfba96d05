"""The plan of a data set, written once: lengths and packs of every epoch, without a picture being decoded.

A folder of four files. `packs.parquet`: one line a pack, in the order of training. `rejects.parquet`: rows that are
left out, and why. `rounds.json`: what each round holds. `plan.json`: what the plan was made with.

A training reads the lengths and forms the packs again of them, which takes no time and fits any way to share the rows
of a step out over devices and micro-batches. So its batches are those of a training that measures the data itself. How
many rows a step has decides the windows, so they must be as many as the plan was made for, or cut the same windows.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.files import claimed, committed_folder
from finevit_training.data.order import RoundKey, RowKey, WindowKey, by_rounds, lanes_of
from finevit_training.data.plan import Sized, plan_round
from finevit_training.data.reader import Drafts, Reader, Skip

MADE_WITH, PACKS, REJECTS, ROUNDS = "plan.json", "packs.parquet", "rejects.parquet", "rounds.json"
_SAMPLE = pa.struct(
    {
        "id": pa.string(),
        "source": pa.int32(),
        "path": pa.string(),
        "row": pa.int64(),
        "tokens": pa.int32(),
        "patches": pa.int32(),
        "part": pa.int64(),
        "copy": pa.int32(),
        "window": pa.int64(),
        "place": pa.int32(),
    }
)
_PACKS = pa.schema({"epoch": pa.int32(), "round": pa.int32(), "pack": pa.int32(), "samples": pa.list_(_SAMPLE)})
_REJECTS = pa.schema(
    {"epoch": pa.int32(), "round": pa.int32(), "id": pa.string(), "reason": pa.string(), "is_bad": pa.bool_()}
)


_BY_STEP = ("window_rows", "streams")


class Summary(NamedTuple):
    """What a plan holds: packs, samples, and the share of real tokens in its packs."""

    packs: int
    samples: int
    real: float


class WrittenRound(NamedTuple):
    """A round of a plan.

    Attributes:
        fraction: how far the training is that it was planned for, 0 to 1.
        sized: the samples of each window in their order.
        tried: rows that were read.
        skipped: those that are left out.
    """

    fraction: float
    sized: dict[WindowKey, list[Sized]]
    tried: int
    skipped: list[Skip]


def plan_facts(reader: Reader) -> dict[str, Any]:
    """Everything that decides a plan, in values of JSON."""
    return json.loads(json.dumps({**reader.facts(), **reader.examples.facts()}))


def write_plan(reader: Reader, capacity: int, step: int, epochs: int, folder: Path) -> Summary:
    """Writes the plan of some epochs whole or not at all; the same data gives the same bytes.

    Args:
        capacity: tokens of a row.
        step: packs of an optimizer step, over all ranks; that of the reader's order.

    Raises:
        ValueError: the folder holds something else than a plan, another process writes it, or nothing in the data can
            be trained on.
        StopRun: the folder cannot be written, or a file of the data is gone.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MADE_WITH).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} holds something else than a plan; give a new folder")
    rounds, packed, samples, real = [], 0, 0, 0
    with claimed(folder) as mine, committed_folder(folder) if mine else nullcontext() as aside:
        if aside is None:
            raise ValueError(f"{folder} is being written by another process; wait for it, or give another folder")
        with (
            pq.ParquetWriter(aside / PACKS, _PACKS) as packs_file,
            pq.ParquetWriter(aside / REJECTS, _REJECTS) as rejects_file,
        ):
            for key, fraction, found in _rounds(reader, epochs):
                packs = _pack_lines(reader, key, found, capacity, step // lanes_of(step))
                rejects = [
                    dict(zip(_REJECTS.names, (*key, *skip), strict=True)) for one in found for skip in one.skipped
                ]
                if packs:
                    packs_file.write_table(pa.Table.from_pylist(packs, _PACKS), row_group_size=len(packs))
                if rejects:
                    rejects_file.write_table(pa.Table.from_pylist(rejects, _REJECTS), row_group_size=len(rejects))
                tried = sum(one.tried for one in found)
                rounds.append({**key._asdict(), "fraction": fraction, "rows": tried, "packs": len(packs)})
                packed += len(packs)
                samples += sum(len(one["samples"]) for one in packs)
                real += sum(sample["tokens"] for one in packs for sample in one["samples"])
        if not packed:
            raise ValueError(
                "nothing in the data can be trained on: every row was left out; `finevit data look` says why"
            )
        made_with = {**plan_facts(reader), "epochs": epochs}
        (aside / ROUNDS).write_text(json.dumps(rounds, indent=1))
        (aside / MADE_WITH).write_text(json.dumps(made_with, indent=1, ensure_ascii=False), encoding="utf-8")
    return Summary(packed, samples, real / (packed * capacity))


def _rounds(reader: Reader, epochs: int) -> Iterator[tuple[RoundKey, float, list[Drafts]]]:
    fraction, key = by_rounds(reader.order, epochs), RoundKey(0, 0)
    while key.epoch < epochs:
        far = fraction(key, 0)
        yield key, far, [reader.drafts(window, far) for window in reader.order.windows(key)]
        key = reader.order.after(key)


def _pack_lines(reader: Reader, key: RoundKey, found: list[Drafts], capacity: int, block: int) -> list[dict[str, Any]]:
    """The packs of a round, a line each."""
    windows, lines = [], {}
    for one in found:
        windows.append([])
        for place, (row, draft) in enumerate(zip(one.keys, one.drafts, strict=True)):
            windows[-1].append(Sized(row, len(draft), draft.patches))
            source, part = reader.parts[row.part]
            lines[row] = {
                **{"id": draft.id, "source": source, "path": part.path, "row": part.start + row.row},
                **{"tokens": len(draft), "patches": draft.patches, "part": row.part, "copy": row.copy},
                **{"window": one.window.window, "place": place},
            }
    packs = plan_round(windows, capacity, block, seed=(reader.order.seed, *key))
    return [
        {**key._asdict(), "pack": number, "samples": [lines[sample.key] for sample in pack.samples]}
        for number, pack in enumerate(packs)
    ]


class WrittenPlan:
    """A plan that a training reads.

    Args:
        folder: that `write_plan` wrote.
        reader: of the training.

    Raises:
        ValueError: there is no plan, or it was made with something else than the training has.
    """

    def __init__(self, folder: Path, reader: Reader) -> None:
        try:
            made_with = json.loads((folder / MADE_WITH).read_text(encoding="utf-8"))
            rounds = {RoundKey(one["epoch"], one["round"]): one for one in json.loads((folder / ROUNDS).read_text())}
            self.epochs: int = made_with.pop("epochs")
            for table in (PACKS, REJECTS):
                pq.read_metadata(folder / table)  # ends in an error where the file does not end as it should
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} holds no plan: {error}; `finevit data pack` writes one") from error
        _refuse_others(folder, made_with, plan_facts(reader))
        self._folder, self._parts, self._order = folder, reader.parts, reader.order
        self._rounds = rounds
        self._refuse_changed_data(reader)

    def _refuse_changed_data(self, reader: Reader) -> None:
        """Measures one window; where data was changed elsewhere, the reader says so when it comes to that row."""
        key = RoundKey(0, 0)
        window, far = self._order.windows(key)[0], self._rounds[key]["fraction"]
        found = reader.drafts(window, far)
        sized = [Sized(row, len(draft), draft.patches) for row, draft in zip(found.keys, found.drafts, strict=True)]
        written = self.round(key)
        if written is None or sized != written.sized[window]:
            raise ValueError(
                f"the plan in {self._folder} was made with other rows than `data` holds now; make it again with "
                "`finevit data pack`, or leave `plan` out"
            )

    def round(self, key: RoundKey) -> WrittenRound | None:
        """What the plan says about a round; None where it does not go so far."""
        if key not in self._rounds:
            return None
        of_round = [("epoch", "=", key.epoch), ("round", "=", key.round)]
        places: dict[WindowKey, list[tuple[int, Sized]]] = {window: [] for window in self._order.windows(key)}
        for pack in pq.read_table(self._folder / PACKS, filters=of_round).column("samples").to_pylist():
            for one in pack:
                row = RowKey(key.epoch, one["part"], one["row"] - self._parts[one["part"]][1].start, one["copy"])
                sized = Sized(row, one["tokens"], one["patches"])
                places[WindowKey(key.epoch, one["window"])].append((one["place"], sized))
        rejects = pq.read_table(self._folder / REJECTS, filters=of_round, columns=["id", "reason", "is_bad"])
        return WrittenRound(
            self._rounds[key]["fraction"],
            {window: [sized for _, sized in sorted(samples)] for window, samples in places.items()},
            self._rounds[key]["rows"],
            [Skip(**one) for one in rejects.to_pylist()],
        )


def _refuse_others(folder: Path, made_with: Mapping[str, Any], has: Mapping[str, Any]) -> None:
    for name, value in has.items():
        if made_with.get(name) != value:
            by_step = " (the packs of an optimizer step decide it: `--step`)" if name in _BY_STEP else ""
            raise ValueError(
                f"the plan in {folder} was made with {name} {_short(made_with.get(name))}, and this training has "
                f"{_short(value)}{by_step}; make it again with `finevit data pack`, or leave `plan` out"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + " ..."
