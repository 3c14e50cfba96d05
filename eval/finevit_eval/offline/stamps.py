"""The stamps of Tux Paint (Debian's tuxpaint-stamps-default, GPL-2): photographs and drawings, cut out, with what a
child reads below them.
"""

import io
from collections.abc import Iterator, Mapping

from PIL import Image

from finecap.records import Record
from finevit_eval.offline.captioned import CaptionedPicture, captioned_records
from finevit_eval.offline.debian import DebianFile, fetch, read_files

STAMPS = DebianFile(
    name="tuxpaint-stamps-default_2022.06.04-1_all.deb",
    folder="t/tuxpaint-stamps",
    size=160_880_444,
    sha1="86ff15e81cc37ba8d1ea628a17d4a111d6140a42",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
FOLDER = "/usr/share/tuxpaint/stamps"
LICENSE = "GPL-2 (Tux Paint stamps)"
WIDTH = 256
"""Of a picture that is stored as SVG, in pixels."""
LEAST_SIDE = 28
"""In pixels; smaller ones show nothing, and are less than a token of FineViT."""


def stamp_records() -> Iterator[Record]:
    """A record for each stamp with a caption; of one that is there as PNG and as SVG, the PNG.

    Raises:
        ValueError: The package cannot be had.
    """
    files = read_files(fetch(STAMPS), FOLDER, {".png", ".svg", ".txt"})
    return captioned_records(_stamps(files), STAMPS.name, LICENSE)


def _stamps(files: Mapping[str, bytes]) -> Iterator[CaptionedPicture]:
    """The pictures among `files` that can be seen; the first line of `bird.txt` beside `bird.png` is its caption."""
    for name, text in files.items():
        stem, suffix = name.rsplit(".", 1)
        if suffix != "txt" or not text.strip():
            continue
        picture = files.get(f"{stem}.png") or _rendered(files.get(f"{stem}.svg"))
        if picture and _least_side(picture) >= LEAST_SIDE:
            yield CaptionedPicture(f"stamps/{stem}", picture, text.decode("utf-8", "replace").splitlines()[0].strip())


def _rendered(svg: bytes | None) -> bytes | None:
    """An SVG as PNG; None of one without a size, of which a few are there."""
    import resvg_py

    try:
        return svg and bytes(resvg_py.svg_to_bytes(svg_string=svg.decode("utf-8", "replace"), width=WIDTH))
    except ValueError:
        return None


def _least_side(picture: bytes) -> int:
    with Image.open(io.BytesIO(picture)) as image:
        return min(image.size)
