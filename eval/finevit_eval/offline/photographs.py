"""Photographs with writing (Debian's opencv-doc and scikit-image), and the lines that rapidocr reads on them.

Nobody published what stands there: the truth is rapidocr's, so a score is agreement with it. What it was seen to
misread on these pictures is left out.
"""

from collections.abc import Iterator

from finecap.corpus.drawing.raster import package_file
from finecap.engine.reading.reader import Line, Reader
from finecap.pictures import MAX_PIXELS, open_rgb
from finecap.records import Record, Region, new_record
from finevit_eval.offline.debian import DebianFile, fetch, read_files

OPENCV = DebianFile(
    name="opencv-doc_4.6.0+dfsg-12_all.deb",
    folder="o/opencv",
    size=95_715_012,
    sha1="7419f26569e08df97f93afc25cee39865194b2a6",
    sha256="4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
)
FOLDER = "/usr/share/doc/opencv-doc/examples"
PICTURES = (
    *(f"text/scenetext{number:02}.jpg" for number in (1, 2, 3, 4, 6)),
    *(f"text/scenetext_segmented_word{number:02}.jpg" for number in (1, 2, 3, 5)),
    "data/box.png",
    "data/messi5.jpg",
)
LICENSE = "Apache-2.0 and BSD-3-Clause (opencv-doc), BSD-3-Clause (scikit-image)"
SURE = 0.95
"""Least score of a line."""
LEAST_LETTERS = 2
MISREAD = ("markers = np.zeros like(coins)",)
"""np.zeros_like."""


def photograph_records() -> Iterator[Record]:
    """A record for each picture.

    Raises:
        ValueError: The package cannot be had.
    """
    files = read_files(fetch(OPENCV), FOLDER, {".jpg", ".png"})
    pictures = {name: files[name] for name in PICTURES}
    pictures["skimage/page.png"] = package_file("skimage", "data/page.png").read_bytes()
    reader = Reader()
    for name, content in pictures.items():
        image = open_rgb(content, MAX_PIXELS)
        regions = [_region(line) for line in reader.read(image) if is_sure(line)]
        source = f"{OPENCV.name}, scikit-image; read by {reader.name}"
        yield new_record(f"photo/{name}", content, image.size, source, LICENSE, "test", regions, [])


def is_sure(line: Line) -> bool:
    """Are there letters, and is the reader sure of them, and right as far as is known?"""
    text, score = line.whole.text, line.whole.score
    return score >= SURE and sum(map(str.isalpha, text)) >= LEAST_LETTERS and text not in MISREAD


def _region(line: Line) -> Region:
    return {
        "bbox": [float(side) for side in line.whole.bbox],
        "kind": "text",
        "label": "line",
        "caption": None,
        "text": line.whole.text,
        "score": line.whole.score,
        "verdict": None,
    }
