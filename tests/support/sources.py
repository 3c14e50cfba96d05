"""What tests of sources share: small pictures, and everything that a source says."""

import io
import pickle

from PIL import Image

from finecap.pictures import encoded
from finecap.sources.door import open_source
from finecap.sources.rows import BadRow


def picture(number, size=None, file_format="PNG", **options):
    """A picture of one colour; by default its size follows from its number."""
    color = (number * 37 % 256, number * 91 % 256, 128)
    return encoded(Image.new("RGB", size or (20 + number % 7, 30 + number % 5), color), file_format, **options)


PICTURES = [picture(number) for number in range(6)]
SIZES = [Image.open(io.BytesIO(data)).size for data in PICTURES]


def everything(spec, split="train"):
    """The source as another process gets it, its rows, and the pictures of those that are none of them bad."""
    source = pickle.loads(pickle.dumps(open_source(spec, split)))
    rows, pictures = [], []
    for part in source.parts:
        found = source.read_rows(part)
        good = [at for at, row in enumerate(found) if not isinstance(row, BadRow)]
        bytes_of = source.read_pictures(part, good)
        assert sorted(bytes_of) == good
        rows += found
        pictures += [bytes_of.get(at) for at in range(len(found))]
    assert len({row.id for row in rows}) == len(rows)
    return source, rows, pictures


def captions(rows):
    return [row.record["global_caption"] for row in rows]
