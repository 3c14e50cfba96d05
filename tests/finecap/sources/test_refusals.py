"""What cannot be opened is said: what was found, what is expected, and how to mend it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap.sources.door import open_source
from tests.support.sources import PICTURES


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no file of a known kind"),
        ({"a.png": b"", "b.parquet": b""}, "different kinds, such as b.parquet and a.png"),
        ({"a.png": b"", "llava.json": b"[]"}, "different kinds, such as llava.json and a.png"),
        ({"train.parquet": b"PAR1"}, "cannot be read as parquet"),
        ({"a.csv": b""}, "its first line is it is empty"),
        ({"a.csv": b"url,text\nhttps://x/a.png,b\n"}, r"its columns are url, text; .*links are not fetched"),
        (
            {"a.jsonl": b'{"question": "Q"}\n'},
            r"its columns are question; expected .*its first row is .*'question': 'Q'",
        ),
        ({"a.jsonl": b"[1, 2]"}, "a.jsonl#0: row: '1', expected an object"),
        ({"a.json": b'[{"image": "a"}, {'}, "is no JSON from byte 17 on"),
        ({"a.json": b'[{"image": "a"} {}]'}, "is no JSON at byte 16"),
        ({"a.json": b"[]"}, "holds no rows"),
        ({"train.csv": b"image,caption\n", "test.csv": b"image,caption\n"}, "holds no rows"),
        ({"test-0.parquet": b""}, "holds no files of the split 'train'; there are test"),
    ],
)
def test_what_fits_no_kind_is_said(tmp_path, files, says):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=says):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (7, "a source is 7, expected a path or a mapping"),
        ({"path": "a", "wieght": 1}, "a source has wieght, expected path, name, weight, columns, split, image_folder"),
        ({"path": "a", "name": "b"}, "give one of them"),
        ({"weight": 1}, "give one of them"),
        ({"path": "a", "weight": 0}, "weight is 0, expected a number above 0"),
        ({"path": "a", "weight": float("nan")}, "weight is nan"),
        ({"path": "a", "columns": {"picture": "x"}}, "expected names for image and caption"),
        ({"path": "a", "split": 1}, "split is 1"),
        ({"path": "a", "image_folder": 1}, "image_folder is 1, expected the path or the URL of a folder"),
        ({"path": "a", "image_folder": ""}, "image_folder is '', expected"),
        ("nowhere/at/all", "no such file or folder"),
        ("nowhere/*.parquet", "no file matches this pattern"),
        ("gopher://x/y.parquet", "gopher:// cannot be read"),
    ],
)
def test_what_is_no_spec_is_said(spec, says):
    with pytest.raises(ValueError, match=says):
        open_source(spec)


def test_a_file_that_is_gone_ends_the_run_with_its_name(tmp_path):
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read .* it was there when the source was opened"):
        source.read_rows(source.parts[0])


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([pa.array(PICTURES)] * 2, names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has two columns of one name among image, image"):
        open_source(tmp_path)


def test_a_file_that_was_written_over_ends_the_run_and_one_that_lost_rows_says_so(tmp_path):
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "a.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"image": PICTURES[:3]}), tmp_path / "a.parquet", row_group_size=3)
    for part in source.parts:
        with pytest.raises(ValueError, match="its row groups are not those that it had"):
            source.read_rows(part)
    (tmp_path / "1.png").write_bytes(PICTURES[1])
    (tmp_path / "a.jsonl").write_text('{"image": "1.png"}\n' * 3)
    source = open_source(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"image": "1.png"}\n' * 2)
    assert len(source.read_rows(source.parts[0])) == 2
    found = source.read_pictures(source.parts[0], [1, 2])
    assert found[1] == [PICTURES[1]]
    assert found[2].reason == "unreadable: the file has fewer rows than it had"
