"""What the columns of a source mean: FineCap records, captions, or conversations."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any

from finecap.records import Record, new_record
from finecap.shards.layout import SPLITS
from finecap.sources.rows import Bad, Reference, Row, Size
from finecap.sources.turns import FORMS

FINECAP = ("id", "image", "width", "height", "source", "license", "regions", "qa")
# Usual names, the likeliest first, in lower case.
IMAGES = (
    *("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "image_path", "file_name", "filename"),
    *("filepath", "file_path", "path"),
)
CAPTIONS = ("caption", "text", "txt")
PICTURES_OF_TURNS = ("images", "image")
FACTS = ("width", "height", "source", "license", "split")
COLUMNS = ("image", "caption")
UNKNOWN_LICENSE = "unknown"
EXPECTED = (
    "expected a FineCap record (image, regions, qa, ...), an image column (image, jpg, file_name, ...) with or "
    "without a caption (caption, text), or a conversation (messages, texts, conversations, or prompt and "
    "completion, with images); name others with `columns: {image: ..., caption: ...}`"
)


@dataclass(frozen=True)
class Meaning:
    """How a row is made of its columns.

    Attributes:
        kind: "finecap", "captions", "pictures", a key of `finecap.sources.turns.FORMS`.
        words: the columns that hold no picture.
        pictures: the columns that may hold the pictures; the first that is there counts.
        caption: the column of the caption.
    """

    kind: str
    words: tuple[str, ...]
    pictures: tuple[str, ...]
    caption: str | None = None

    @property
    def has_sizes(self) -> bool:
        """May the columns tell the size of the picture?"""
        return {"width", "height"} <= set(self.words)

    def references(self, values: Mapping[str, Any]) -> list[Reference]:
        """What stands for the pictures of a row. Raises Bad: a record has another number of them than one."""
        found = next((values[name] for name in self.pictures if values.get(name) is not None), None)
        if isinstance(found, list):
            if self.kind not in FORMS and len(found) != 1:
                raise Bad(f"pictures: {len(found)}, expected one")
            return found
        return [] if found is None and self.kind in FORMS else [found]

    def row(self, values: Mapping[str, Any], name: str, source: str, split: str) -> Row:
        """One row, with the size of its picture if its columns tell it, else without any.

        Args:
            name: an id for it, if it has none of its own.
            source, split: for records that say none.

        Raises:
            Bad: it cannot be used.
        """
        if self.kind in FORMS:
            columns, turns_of = FORMS[self.kind]
            turns = turns_of(*map(values.get, columns), len(self.references(values)))
            return Row(name, [], messages=clean(turns))
        if self.kind == "finecap":
            record = shaped({**values, "image": {"bytes": None, "path": None}}, Record, "record")
            if not record["id"]:
                raise Bad("record: its id is empty")
        else:
            record = _captioned(values, self.caption, name, source, split)
        if record["split"] in SPLITS and split in SPLITS and record["split"] != split:
            raise Bad(f"other split: {record['split']}, and {split} is asked for", is_bad=False)
        size = record["width"], record["height"]
        return Row(record["id"], [size] if min(size) > 0 else [], record=record)


def meaning_of(names: Collection[str], chosen: Mapping[str, str], where: str) -> Meaning:
    """What columns of these names mean.

    Args:
        chosen: names of the columns `image` and `caption`, if they are not the usual ones.
        where: for messages.

    Raises:
        ValueError: nothing that is known.
    """
    if missing := [name for name in chosen.values() if name not in names]:
        raise ValueError(f"{where}: `columns` names {', '.join(missing)}, and its columns are {', '.join(names)}")
    facts = tuple(name for name in FACTS if name in names)
    if not chosen:
        if set(FINECAP) <= set(names):
            fields = tuple(name for name in Record.__annotations__ if name != "image" and name in names)
            return Meaning("finecap", fields, ("image",))
        for form, (columns, _) in FORMS.items():
            if set(columns) <= set(names):
                return Meaning(form, columns, tuple(name for name in PICTURES_OF_TURNS if name in names))
    lower = {name.lower(): name for name in reversed(list(names))}
    image = chosen.get("image") or next((lower[name] for name in IMAGES if name in lower), None)
    caption = chosen.get("caption") or next((lower[name] for name in CAPTIONS if name in lower), None)
    if image is None:
        links = "; links are not fetched: `finevit caption` with ingest.allow_urls does that" if "url" in lower else ""
        raise ValueError(f"{where}: its columns are {', '.join(names) or 'none'}; {EXPECTED}{links}")
    words = tuple(dict.fromkeys((*facts, *([caption] if caption else []))))
    return Meaning("captions" if caption else "pictures", words, (image,), caption)


def _captioned(values: Mapping[str, Any], column: str | None, name: str, source: str, split: str) -> Record:
    caption = values.get(column) if column else None
    if caption is not None and not isinstance(caption, str):
        raise Bad(f"caption: {str(caption)[:80]!r}, expected text")
    facts = {key: value for key in FACTS if isinstance(value := values.get(key), str) and value}
    record = new_record(
        name,
        b"",
        _size(values),
        clean(facts.get("source", source)),
        clean(facts.get("license", UNKNOWN_LICENSE)),
        facts.get("split", split),
        regions=[],
        qa=[],
        global_caption=clean((caption or "").strip()) or None,
    )
    return {**record, "image": {"bytes": None, "path": None}}


def _size(values: Mapping[str, Any]) -> Size:
    """As the columns tell it, or zeros. CSV tells numbers as text."""
    width, height = (str(values.get(name)) for name in ("width", "height"))
    if width.isascii() and height.isascii() and width.isdigit() and height.isdigit() and len(width + height) < 19:
        return int(width), int(height)
    return 0, 0


def clean(value: Any) -> Any:
    """Texts that can be written as UTF-8; JSON may hold half a surrogate pair."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [clean(one) for one in value]
    if isinstance(value, dict):
        return {key: clean(one) for key, one in value.items()}
    return value


class _Misfit(Exception):
    """A value of another shape: what was expected, and the fields that lead to it, the innermost first."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__()
        self.value, self.expected, self.fields = value, expected, list[str]()


def shaped(value: Any, hint: type, where: str) -> Any:
    """The value in the shape that a type of `finecap.records` asks for: fields that are missing are None (a list is
    empty, a size 0), and fields that it does not know are left out.

    Raises:
        Bad: it is of another shape.
    """
    try:
        return _shaper(hint)(value)
    except _Misfit as error:
        path = ".".join([where, *reversed(error.fields)])
        raise Bad(f"record: {path} is {str(error.value)[:80]!r}, expected {error.expected}") from error


@functools.cache
def _shaper(hint: Any) -> Callable[[Any], Any]:
    """What `shaped` does for one type; made once, because records have many regions."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint):
        return _fields_shaper({name: _shaper(one) for name, one in typing.get_type_hints(hint).items()})
    if origin is list:
        return _list_shaper(_shaper(arguments[0]))
    if origin in (typing.Union, UnionType):
        inner = _shaper(arguments[0])  # all of them are a type or None
        return lambda value: None if value is None else inner(value)
    kinds = {float: (float, int)}.get(hint, origin or hint)
    allowed = arguments if origin is typing.Literal else None

    def checked(value: Any) -> Any:
        if allowed is not None:
            if isinstance(value, str) and value in allowed:
                return value
        elif isinstance(value, kinds):
            return clean(value)
        elif hint is int and value is None:
            return 0
        raise _Misfit(value, str(allowed) if allowed else getattr(hint, "__name__", str(hint)))

    return checked


def _fields_shaper(fields: dict[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _Misfit(value, "its fields")
        found, name = {}, ""
        try:
            for name, shape in fields.items():
                found[name] = shape(value.get(name))
        except _Misfit as error:
            error.fields.append(name)
            raise
        return found

    return checked


def _list_shaper(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(value: Any) -> list[Any]:
        if value is not None and not isinstance(value, list):
            raise _Misfit(value, "a list")
        return [inner(one) for one in value or ()]

    return checked
