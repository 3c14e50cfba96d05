"""A bare folder of pictures as rows; a text file of the same name beside a picture is its caption."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from finecap.shards.plan import PICTURES
from finecap.sources.places import FileReader, Files, suffix
from finecap.sources.rows import Bad, Item, Part

ROWS_PER_PART = 256
MAX_TEXT_BYTES = 2**20


@dataclass
class FolderReader(FileReader):
    """Pictures in order of their paths.

    Attributes:
        names: of the pictures, below the root.
        texts: of the text files.
    """

    names: list[str] = field(default_factory=list)
    texts: frozenset[str] = frozenset()

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """See `Reader`. The columns are `image`, the path, and `caption`."""
        for number in range(part.rows or 0):
            if wanted is None or number in wanted:
                name = self.names[part.start + number]
                try:
                    caption = self._caption(name) if "caption" in columns else None
                    yield Item(number, name, {"image": name, "caption": caption})
                except Bad as error:
                    yield Item(number, name, str(error))

    def _caption(self, name: str) -> str | None:
        beside = str(PurePosixPath(name).with_suffix(".txt"))
        if beside not in self.texts:
            return None
        data = self.place.picture(beside)
        if len(data) > MAX_TEXT_BYTES:
            raise Bad(f"caption: {beside} is {len(data)} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Bad(f"caption: {beside} is not UTF-8; save it as UTF-8") from None


def folder_reader(files: Files) -> FolderReader:
    """The pictures among these files."""
    names = [name for name in files.sizes if suffix(name) in PICTURES]
    texts = frozenset(name for name in files.sizes if suffix(name) == ".txt")
    starts = range(0, len(names), ROWS_PER_PART)
    parts = [Part("", start, min(start + ROWS_PER_PART, len(names))) for start in starts]
    return FolderReader(files.place, parts, names, texts)
