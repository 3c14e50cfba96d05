"""Pictures with one caption each as FineCap records, as retrieval reads them."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from finecap.records import Caption, Record, new_record

STYLE = "short"


class CaptionedPicture(NamedTuple):
    """A picture (encoded) and its caption, as published."""

    id: str
    picture: bytes
    caption: str


def captioned_records(items: Iterable[CaptionedPicture], source: str, license: str) -> Iterator[Record]:
    """A test record for each picture. Of those with the same caption, but for case, or the same bytes the first one
    counts: to the others no answer would be right.
    """
    seen: set[str] = set()
    for item in items:
        same = {item.caption.lower(), hashlib.sha256(item.picture).hexdigest()}
        if not seen & same:
            seen |= same
            with Image.open(io.BytesIO(item.picture)) as image:
                size = image.size
            caption: Caption = {"style": STYLE, "text": item.caption, "captioner": source}
            yield new_record(item.id, item.picture, size, source, license, "test", [], [], captions=[caption])
