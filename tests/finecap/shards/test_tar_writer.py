"""Archives of records: names that readers know, whatever the pictures are."""

import io
import tarfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finecap.shards.plan import plan_shards, read_shard
from finecap.shards.tar_writer import export_webdataset


def encoded(file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, file_format, **options)
    return buffer.getvalue()


def enormous() -> bytes:
    """A PNG whose header says 20,000 x 20,000 pixels."""
    data = bytearray(encoded("PNG"))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("picture", "suffix"),
    [
        (encoded("JPEG"), "jpg"),
        (encoded("MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))]), "jpg"),
        (encoded("JPEG2000"), "jp2"),
        (encoded("PNG"), "png"),
        (encoded("WEBP"), "webp"),
    ],
)
def test_pictures_have_names_that_our_own_reader_takes(tmp_path, picture, suffix):
    pq.write_table(pa.table({"id": ["a"], "image": [{"bytes": picture, "path": None}]}), tmp_path / "a.parquet")
    (archive,) = export_webdataset([tmp_path / "a.parquet"], tmp_path / "tar")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"00000000.{suffix}", "00000000.json"]
    rows = [row for shard in plan_shards(archive, 10) for row in read_shard(shard)]
    assert [row["bytes"] for row in rows] == [picture]


def test_a_picture_of_400_megapixels_is_exported(tmp_path):
    record = {"id": ["a"], "image": [{"bytes": enormous(), "path": None}]}
    pq.write_table(pa.table(record), tmp_path / "a.parquet")
    (archive,) = export_webdataset([tmp_path / "a.parquet"], tmp_path / "tar")
    with tarfile.open(archive) as tar:
        assert tar.getnames()[0] == "00000000.png"
