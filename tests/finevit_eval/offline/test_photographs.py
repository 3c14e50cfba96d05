"""Lines that the reader is sure of become the truth of photographs; what was seen to be misread does not."""

import pytest
from PIL import Image

from finecap.engine.reading import reader
from finecap.engine.reading.reader import Line, Piece
from finecap.pictures import encoded
from finecap.records import validate_record
from finevit_eval.offline import photographs


def line(text, score):
    return Line(Piece((2, 3, 40, 12), text, score), ())


@pytest.fixture
def photograph(publish, monkeypatch):
    """One picture in the package, on which the reader finds four lines."""
    picture = encoded(Image.new("RGB", (80, 60), "teal"), "JPEG")
    package = publish({f"{photographs.FOLDER}/text/one.jpg": picture, f"{photographs.FOLDER}/other.jpg": picture})

    class Found:
        name = "reader 1"

        def read(self, image):
            read = [("NOTICE", 0.99), ("smear", 0.9), ("99", 1.0), (photographs.MISREAD[0], 0.99)]
            return [line(*one) for one in read] if image.size == (80, 60) else []

    monkeypatch.setattr(photographs, "OPENCV", package)
    monkeypatch.setattr(photographs, "PICTURES", ("text/one.jpg",))
    monkeypatch.setattr(photographs, "Reader", Found)
    return picture


def test_lines_that_are_sure_become_regions_whose_source_says_who_read_them(photograph):
    first, page = photographs.photograph_records()
    for record in (first, page):
        validate_record(record)
    assert (first["id"], first["image"]["bytes"]) == ("photo/text/one.jpg", photograph)
    assert [(one["text"], one["kind"], one["verdict"]) for one in first["regions"]] == [("NOTICE", "text", None)]
    assert first["source"].endswith("read by reader 1")
    assert page["regions"] == []


@pytest.mark.slow
def test_the_page_of_scikit_image_is_read():
    """By rapidocr itself, whose models lie in its package."""
    from finecap.corpus.drawing.raster import package_file

    with Image.open(package_file("skimage", "data/page.png")) as page:
        lines = [one for one in reader.Reader().read(page.convert("RGB")) if photographs.is_sure(one)]
    assert [one.whole.text for one in lines][:2] == [
        "Region-based segmentation",
        "Let us first determine markers of the coins and the",
    ]
