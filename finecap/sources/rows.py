"""What comes out of a source: parts that are cut without reading, and rows without the bytes of their pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict

from finecap.records import Record

# A picture as data names it: encoded bytes, a path, or a struct that holds either.
Reference = Any
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rows of one file, the unit of reading.

    Attributes:
        path: the file, below the source's root.
        start, stop: numbers of the rows in the file; `stop` is None where they are counted only by reading.
        offset, end: the bytes that hold them, where the format is cut by bytes; of parquet, `offset` is the number of
            the row group.
        keys: of samples of an archive whose own key an earlier one has, by number.
        counted: how many rows a part without `stop` has, if they were counted.
    """

    path: str
    start: int
    stop: int | None
    offset: int = 0
    end: int | None = None
    keys: tuple[tuple[int, str], ...] = ()
    counted: int | None = None

    @property
    def rows(self) -> int | None:
        """How many; None if that is unknown until the part is read."""
        return self.counted if self.stop is None else self.stop - self.start


class Content(TypedDict):
    """A piece of a turn: a picture (the next of the row's), or text."""

    type: Literal["image", "text"]
    text: NotRequired[str]


class Message(TypedDict):
    """One turn of a conversation. What the assistant says is trained unless `trained` is False."""

    role: Literal["system", "user", "assistant"]
    content: list[Content]
    trained: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One row without the bytes of its pictures: either a record or a conversation.

    Attributes:
        id: unique in its source and the same each time.
        sizes: width and height of each picture in pixels, upright (EXIF applied). Where the data has columns `width`
            and `height` they are believed, so a picture may turn out to be of another size.
        record: a FineCap record whose image has neither bytes nor path; of one picture.
        messages: turns, with as many "image" pieces as there are sizes.
    """

    id: str
    sizes: list[Size]
    record: Record | None = None
    messages: list[Message] | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not used.

    Attributes:
        id: see `Row`.
        reason: "kind: detail".
        is_bad: something is wrong with it; False where it is sound and another split's.
    """

    id: str
    reason: str
    is_bad: bool = True


class Bad(ValueError):
    """What is wrong with one row; the message is "kind: detail". Never leaves this package.

    Attributes:
        is_bad: see `BadRow`.
    """

    def __init__(self, reason: str, is_bad: bool = True) -> None:
        super().__init__(reason)
        self.is_bad = is_bad


class Item(NamedTuple):
    """One row as a reader found it.

    Attributes:
        number: its place in the part, from 0.
        id: unique in the source.
        values: column -> value, or why there are none, "kind: detail".
    """

    number: int
    id: str
    values: dict[str, Any] | str


class Reader(Protocol):
    """Rows of one kind of file. It is pickled to other processes, and opens files where and when it reads.

    Attributes:
        parts: in a fixed order.
        image_folder: the `Place` where paths of pictures are looked for, if it was named.
    """

    parts: list[Part]
    image_folder: Any

    @property
    def at_once(self) -> int:
        """How many pictures are asked for at a time, where most of the time is waiting."""
        ...

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """The rows of a part in order.

        Args:
            columns: those that are needed; more may come.
            wanted: numbers in the part; all if None.
        """
        ...

    def picture(self, reference: Reference, part: Part) -> bytes:
        """The encoded bytes that a row's reference stands for.

        Raises:
            Bad: there are none, or it may not be followed.
        """
        ...

    def size(self, reference: Reference, part: Part) -> Size:
        """The upright size of the picture, by its header alone where that is enough.

        Raises:
            Bad: as `picture`, or it is no picture.
        """
        ...
