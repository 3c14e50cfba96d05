"""WebDataset archives, as their own writer and img2dataset make them."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from finecap.shards import tar
from finecap.shards.tar_writer import export_webdataset
from finecap.sources.door import open_source
from finecap.sources.rows import BadRow
from tests.support.sources import PICTURES, SIZES, captions, everything, picture


def test_webdataset_archives_of_its_own_writer(tmp_path):
    for archive, numbers in (("0.tar", range(4)), ("1.tar", range(4, 6))):
        with webdataset.TarWriter(str(tmp_path / archive)) as writer:
            for number in numbers:
                writer.write({"__key__": f"{number:05d}", "png": PICTURES[number], "txt": f"picture {number}"})
    source, rows, pictures = everything(str(tmp_path))
    assert captions(rows) == [f"picture {number}" for number in range(6)]
    assert pictures == [[data] for data in PICTURES]
    assert rows[4].id == "1.tar/00004.png"
    assert source.kind == "captions"


def test_archives_of_img2dataset_and_of_class_names(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        said = {"caption": "said", "url": "https://x/y.jpg", "width": 5, "height": 6, "status": "success"}
        writer.write({"__key__": "a", "jpg": picture(1, file_format="JPEG"), "json": said})
        writer.write(
            {"__key__": "b", "webp": picture(2, file_format="WEBP"), "json": {"caption": "x"}, "txt": "text wins"}
        )
        writer.write({"__key__": "c", "png": PICTURES[3], "cls": 17})
        writer.write({"__key__": "d", "png": PICTURES[4], "cls": b"tabby cat"})
    rows = everything(str(tmp_path))[1]
    assert captions(rows) == ["said", "text wins", None, "tabby cat"]
    assert [row.sizes[0] for row in rows] == [(5, 6), (22, 32), SIZES[3], SIZES[4]]


def test_what_stands_beside_archives_and_parquet_is_not_data(tmp_path):
    for name in ("00000", "00001"):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as writer:
            writer.write({"__key__": name, "png": PICTURES[0], "txt": name})
        pq.write_table(pa.table({"url": ["https://x/y.png"], "key": [name]}), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}_stats.json").write_text('{"count": 1}')
    assert captions(everything(str(tmp_path))[1]) == ["00000", "00001"]
    beside = tmp_path / "beside"
    beside.mkdir()
    pq.write_table(pa.table({"image": PICTURES}), beside / "train.parquet")
    (beside / "dataset_infos.json").write_text("{}")
    assert len(everything(str(beside))[1]) == 6
    shutil.rmtree(beside)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"give a pattern such as '.*/\*.tar'"):
        open_source(str(tmp_path))


def test_columns_are_looked_for_all_over_the_archives(tmp_path):
    for number in range(20):
        with webdataset.TarWriter(str(tmp_path / f"{number:02d}.tar")) as writer:
            words = {"txt": "words"} if number >= 15 else {}
            writer.write({"__key__": f"{number}", "png": PICTURES[0], **words})
    assert open_source(str(tmp_path)).kind == "captions"


def test_a_caption_that_is_not_utf_8_is_a_bad_row(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, text in enumerate([b"tea", "café".encode("latin-1"), "café".encode()]):
            writer.write({"__key__": f"{number}", "png": PICTURES[number], "txt": text})
    rows = everything(str(tmp_path))[1]
    assert rows.pop(1).reason == "caption: the text beside the picture is not UTF-8; save it as UTF-8"
    assert captions(rows) == ["tea", "café"]


def test_our_own_archives_are_finecap_records(nano_corpus, tmp_path):
    export_webdataset((nano_corpus / "data").iterdir(), tmp_path)
    source, rows, pictures = everything(str(tmp_path))
    _, ours, theirs = everything(str(nano_corpus))
    assert source.kind == "finecap"
    assert [row.record for row in rows] == [row.record for row in ours]
    assert pictures == theirs


def test_only_the_pictures_that_are_wanted_are_read(tmp_path, monkeypatch):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(300):
            writer.write({"__key__": f"{number:05d}", "png": picture(number), "json": {"width": 20, "height": 30}})
    source, read = open_source(tmp_path), []
    original = tar._Archive.read
    monkeypatch.setattr(tar._Archive, "read", lambda self, one: read.append(one.name) or original(self, one))
    for part in source.parts:
        source.read_rows(part)
    assert not any(name.endswith(".png") for name in read)
    assert source.read_pictures(source.parts[1], [2, 40]) == {2: [picture(258)], 40: [picture(296)]}
    assert [name for name in read if name.endswith(".png")] == ["00258.png", "00296.png"]


def test_large_archives_are_cut_and_a_cut_off_end_is_said(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(600):
            writer.write({"__key__": f"{number:05d}", "png": picture(number), "txt": f"picture {number}"})
    source, rows, pictures = everything(str(tmp_path))
    assert [part.rows for part in source.parts] == [256, 256, 88]
    assert captions(rows) == [f"picture {number}" for number in range(600)]
    assert pictures == [[picture(number)] for number in range(600)]
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 512 * 1100])
    source, rows, _ = everything(str(tmp_path))
    assert sum(part.rows for part in source.parts) == len(rows)
    assert isinstance(rows[-1], BadRow)
    assert rows[-1].reason.startswith("truncated: ")
    assert captions(rows[:-2]) == [f"picture {number}" for number in range(len(rows) - 2)]
