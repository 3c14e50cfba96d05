"""Rows of the data on their way to the model, in the process that loads them: lengths first, pictures later.

`Reader` holds encoded bytes and never decoded pictures. Nothing that it keeps changes what it returns.
"""

import hashlib
import json
import random
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, NamedTuple, Protocol

from finecap.sources.door import Source
from finecap.sources.rows import BadRow, Part, Row
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.order import Order, RowKey, WindowKey

HELD_BYTES = 2**30  # of encoded pictures that a loading process keeps, beside the part that it is reading
HELD_PARTS = 64  # whose texts a loading process keeps
MOST_REPLACEMENTS = 32  # that are tried in place of a sample, so that data without any good picture costs no square


class Draft(Protocol):
    """A sample without its pictures. It travels between processes."""

    id: str
    patches: int
    left_out: list[str]

    def __len__(self) -> int:
        """What it takes of a row: tokens, or patches in a stage without text, whose rows are batches of pictures."""
        ...


class Examples(Protocol):
    """What a stage makes of rows.

    Attributes:
        remedy: what may help, besides mending the data, where nothing can be made of any row; how a sentence goes on.
    """

    remedy: ClassVar[str]

    def draft(self, row: Row, key: RowKey, fraction: float) -> Any:
        """The sample that a row is, pictures aside; raises UnusableRecord."""
        ...

    def example(self, draft: Any, pictures: Sequence[bytes]) -> Any:
        """The sample with its pictures decoded; raises UnusableRecord."""
        ...

    def collate(self, rows: Sequence[Sequence[Any]]) -> Mapping[str, Any]:
        """The batch of some rows of examples, such as `Batch`."""
        ...

    def facts(self) -> dict[str, Any]:
        """Everything that decides the drafts of given rows, in values of JSON."""
        ...


class Skip(NamedTuple):
    """A row that is not trained on: why, and whether something is wrong with it or it does not fit this run."""

    id: str
    reason: str
    is_bad: bool


class Drafts(NamedTuple):
    """The samples of a window in their order, how many rows were tried, and what is left out of them."""

    window: WindowKey
    keys: list[RowKey]
    drafts: list[Any]
    tried: int
    skipped: list[Skip]


class Planned(NamedTuple):
    """A sample in a pack; its draft travels along where the asking process has it."""

    key: RowKey
    tokens: int
    fraction: float
    draft: Any = None


class Reader:
    """Reads the rows of windows and makes examples of them.

    Args:
        sources: opened sources.
        parts: (source, part) of each part, in the order's numbers.
        order: of the run.
        examples: of the stage.
    """

    def __init__(
        self, sources: Sequence[Source], parts: Sequence[tuple[int, Part]], order: Order, examples: Examples
    ) -> None:
        self.sources = sources
        self.parts = parts
        self.order = order
        self.examples = examples
        self._rows: OrderedDict[int, list[Row | BadRow]] = OrderedDict()
        self._bytes: OrderedDict[int, dict[int, Any]] = OrderedDict()
        self._lacking: set[int] = set()  # parts in which a sample had to be replaced

    def facts(self) -> dict[str, Any]:
        """Everything that decides which rows come when, in values of JSON."""
        order = self.order
        return {
            "data": [source.name for source in self.sources],
            "parts_sha256": parts_hash(self.parts),
            "weights": [source.weight for source in self.sources],
            "seed": order.seed,
            "window_rows": order.window_rows,
            "streams": order.streams,
        }

    @cached_property
    def fingerprint(self) -> int:
        """A number that two readers share if the same rows come at the same time, and else as good as never. What the
        sources are called does not count, so a folder may be moved.
        """
        facts = {name: value for name, value in self.facts().items() if name != "data"}
        return zlib.crc32(json.dumps(facts).encode())

    @cached_property
    def questions(self) -> int:
        """A number that two readers share if they make the same drafts of the same rows, and else as good as never."""
        return zlib.crc32(json.dumps(self.examples.facts(), sort_keys=True).encode())

    def drafts(self, key: WindowKey, fraction: float) -> Drafts:
        """The samples of a window, without their pictures.

        Args:
            fraction: how far the training is, 0 to 1.
        """
        rows = {piece.part: self._part_rows(piece.part) for piece in self.order.pieces(key)}
        counts = [len(rows[piece.part]) for piece in self.order.pieces(key)]
        keys = self.order.row_keys(key, counts)
        found = Drafts(key, [], [], len(keys), [])
        for row_key in keys:
            try:
                draft = self._draft(row_key, rows[row_key.part][row_key.row], fraction)
            except UnusableRecord as error:
                row = rows[row_key.part][row_key.row]
                found.skipped.append(Skip(self._named(row_key, row.id), str(error), error.is_bad))
            else:
                found.keys.append(row_key)
                found.drafts.append(draft)
                name = self._named(row_key, draft.id)
                found.skipped.extend(Skip(name, reason, False) for reason in draft.left_out)
        return found

    def batch(self, packs: Sequence[Sequence[Planned]]) -> tuple[Mapping[str, Any], list[Skip]]:
        """The batch of some packs.

        A sample whose pictures cannot be used is replaced by another of the same part that is no longer than it; where
        there is none, or many in a row cannot be used either, its place stays empty.
        """
        skipped: list[Skip] = []
        rows = []
        for pack in packs:
            examples = (self._usable(planned, skipped) for planned in pack)
            rows.append([example for example in examples if example is not None])
        return self.examples.collate(rows), skipped

    def _usable(self, planned: Planned, skipped: list[Skip]) -> Any:
        for key, draft in islice(self._candidates(planned), 1 + MOST_REPLACEMENTS):
            if key != planned.key:
                self._lacking.add(key.part)
            try:
                return self.examples.example(draft, self._pictures(key))
            except UnusableRecord as error:
                if key == planned.key:  # another one is reported where it is planned itself
                    skipped.append(Skip(self._named(key, draft.id), str(error), error.is_bad))
        return None

    def _candidates(self, planned: Planned) -> Iterator[tuple[RowKey, Any]]:
        """The planned sample, then those that could take its place, in an order that follows from its key."""
        key, draft, fraction = planned.key, planned.draft, planned.fraction
        if draft is None:
            draft = self._as_planned(planned)
        yield key, draft
        rows = self._part_rows(key.part)
        others = list(range(len(rows)))
        random.Random(f"{self.order.seed}/{key.epoch}/{key.part}/{key.row}/{key.copy}").shuffle(others)
        for place in others:
            other = key._replace(row=place)
            try:
                draft = self._draft(other, rows[place], fraction)
            except UnusableRecord:
                continue  # reported where its window is read
            if place != key.row and len(draft) <= planned.tokens:
                yield other, draft

    def _as_planned(self, planned: Planned) -> Any:
        key, found = planned.key, 0
        rows = self._part_rows(key.part)
        try:
            if key.row < len(rows):
                draft = self._draft(key, rows[key.row], planned.fraction)
                if len(draft) == planned.tokens:
                    return draft
                found = len(draft)
        except UnusableRecord:
            pass
        _, part = self.parts[key.part]
        raise ValueError(
            f"{part.path}#{part.start + key.row} has {found} tokens and {planned.tokens} when it was planned: the "
            "data has been changed since. Start again, with a new plan where one is given"
        )

    def _draft(self, key: RowKey, row: Row | BadRow, fraction: float) -> Any:
        if isinstance(row, BadRow):
            raise UnusableRecord(row.reason, row.is_bad)
        return self.examples.draft(row, key, fraction)

    def _named(self, key: RowKey, row_id: str) -> str:
        """A row's id, behind the name of its source where there are several: ids are unique in their source alone."""
        return f"{self.sources[self.parts[key.part][0]].name}: {row_id}" if len(self.sources) > 1 else row_id

    def _part_rows(self, number: int) -> list[Row | BadRow]:
        if number not in self._rows:
            source, part = self.parts[number]
            self._rows[number] = self.sources[source].read_rows(part)
            if len(self._rows) > HELD_PARTS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(number)
        return self._rows[number]

    def _pictures(self, key: RowKey) -> list[bytes]:
        """Encoded pictures of a row; those of its neighbours are kept, because their turn comes soon. In a part that
        replaces samples every row may be needed again: it is read once more then, and not for each of them.
        """
        held = self._bytes.get(key.part, {})
        if key.row not in held:
            source, part = self.parts[key.part]
            held = self.sources[source].read_pictures(part, self._wanted(source, key))
            self._bytes[key.part] = held
            self._bytes.move_to_end(key.part)
            self._forget()
        self._bytes.move_to_end(key.part)
        pictures = held[key.row] if key.part in self._lacking else held.pop(key.row)
        if isinstance(pictures, BadRow):
            raise UnusableRecord(pictures.reason)
        return pictures

    def _wanted(self, source: int, key: RowKey) -> Sequence[int]:
        """The rows to read when one is needed: where rows lie in one block, all of them."""
        return range(len(self._part_rows(key.part))) if self.sources[source].reads_blocks else [key.row]

    def _forget(self) -> None:
        sizes = {part: sum(_size(pictures) for pictures in held.values()) for part, held in self._bytes.items()}
        total = sum(sizes.values())
        for part in list(self._bytes)[:-1]:
            if total <= HELD_BYTES and self._bytes[part]:
                continue
            total -= sizes[part]
            del self._bytes[part]


def parts_hash(parts: Sequence[tuple[int, Part]]) -> str:
    """SHA-256 of the list of parts: of which files they are and where they are cut."""
    digest = hashlib.sha256()
    for number, part in parts:
        digest.update(f"{number} {part}\n".encode())
    return digest.hexdigest()


def _size(pictures: Any) -> int:
    return 0 if isinstance(pictures, BadRow) else sum(len(data) for data in pictures)
