"""WebDataset archives as rows: the members of a sample are its columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, Literal

from finecap.shards import tar
from finecap.shards.on_disk import MAX_ITEM_BYTES
from finecap.shards.plan import MAX_SCANNED_ARCHIVES, PICTURES
from finecap.sources.folder import ROWS_PER_PART
from finecap.sources.places import FileReader, LocalPlace, Place
from finecap.sources.rows import Item, Part

# Parts, and samples of each, in which columns are looked for: JSON leaves out what a sample has not.
LOOKED_AT_PARTS, LOOKED_AT = 8, 20
# What text holds in place of bytes that were no text.
REPLACED, NOT_UTF8 = "\ufffd", "caption: the text beside the picture is not UTF-8; save it as UTF-8"


@dataclass(frozen=True)
class _Archive:
    """One archive of a place."""

    place: Place
    name: str

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        return self.place.open(self.name)


@dataclass
class TarReader(FileReader):
    """Samples of archives: `image`, the fields of the .json, and as `caption` the .txt.

    Attributes:
        columns: all names.
    """

    columns: list[str] = field(default_factory=list)

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """See `Reader`. An archive that is cut off ends in a row that says so."""
        samples = tar.read_samples(
            _Archive(self.place, part.path),
            PICTURES,
            MAX_ITEM_BYTES,
            part.start,
            part.stop,
            part.offset,
            dict(part.keys),
            wanted=_numbers(part, columns, wanted),
        )
        for number, sample in enumerate(samples):
            if wanted is None or number in wanted:
                caption = {} if sample.text is None else {"caption": sample.text}
                values = {**sample.said, **caption, "image": sample.data}
                problem = sample.problem or (REPLACED in (sample.text or "") and NOT_UTF8)
                yield Item(number, f"{part.path}/{sample.key}", problem or values)


def _numbers(part: Part, columns: Collection[str], wanted: Collection[int] | None) -> Collection[int] | None:
    """Of the samples in the archive whose pictures are needed."""
    if "image" not in columns:
        return ()
    return None if wanted is None else frozenset(part.start + number for number in wanted)


def tar_reader(place: Place, names: list[str]) -> TarReader:
    """The samples of these archives, by their headers; those of a server, and more than 1000, are not cut."""
    reader = TarReader(place)
    if not isinstance(place, LocalPlace) or len(names) > MAX_SCANNED_ARCHIVES:
        reader.parts = [Part(name, 0, None) for name in names]
    else:
        reader.parts = [
            Part(name, cut.start, cut.stop, cut.offset, keys=tuple(cut.keys.items()), counted=cut.rows)
            for name in names
            for cut in tar.cut_samples(_Archive(place, name), PICTURES, ROWS_PER_PART)
            if cut.rows
        ]
    found = dict.fromkeys(["image"])
    for part in reader.parts[:: -(-len(reader.parts) // LOOKED_AT_PARTS)] if reader.parts else ():
        for item in islice(reader.read(part, ()), LOOKED_AT):
            found |= dict.fromkeys(item.values if isinstance(item.values, dict) else ())
    reader.columns = list(found)
    return reader
