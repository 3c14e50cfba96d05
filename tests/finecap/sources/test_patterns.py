"""Patterns with braces, as the webdataset world names its shards: all files that they stand for, or the one that is
missing is named.
"""

import braceexpand
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from finecap.sources.door import open_source
from finecap.sources.places import expanded
from tests.support.file_servers import FileServer, files_of, s3_server
from tests.support.sources import PICTURES, captions, everything


@pytest.mark.parametrize(
    "pattern",
    [
        "shards/{00000..00012}.tar",
        "{a,b}.parquet",
        "{8..11}",
        "{08..11}",
        "{3..1}",
        "{0..2}/{a,b}-{01..02}.tar",
        "{train,val{1,2}}.tar",
        "https://x/{a,}.tar",
        "no braces",
        "{alone}",
        "{}",
        "{alone}/{a,b}",
    ],
)
def test_braces_stand_for_what_webdataset_makes_of_them(pattern):
    assert sorted(expanded(pattern)) == sorted(braceexpand.braceexpand(pattern))


def test_unpaired_braces_stay_and_too_many_names_are_refused():
    assert expanded("a{b.tar") == ["a{b.tar"]
    for many in ("{0..999999999}.tar", "{0..99999}/{0..99999}.tar"):
        with pytest.raises(ValueError, match="stands for more than 100,000 files"):
            expanded(many)


@pytest.fixture
def shards(tmp_path):
    """Archives 00008 to 00011 of a picture each, and tables a, b and c."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(8, 12):
        with webdataset.TarWriter(str(folder / f"{number:05d}.tar")) as writer:
            writer.write({"__key__": str(number), "png": PICTURES[number % 6], "txt": f"picture {number}"})
    for name in "abc":
        pq.write_table(pa.table({"image": PICTURES[:1], "caption": [name]}), folder / f"{name}.parquet")
    return folder


PATTERNS = [("{00008..00010}.tar", ["picture 8", "picture 9", "picture 10"]), ("{a,c}.parquet", ["a", "c"])]


@pytest.mark.parametrize(("pattern", "words"), PATTERNS)
def test_files_of_a_pattern_are_read_from_a_disk_and_from_a_server(shards, pattern, words):
    source, rows, pictures = everything(f"{shards}/{pattern}")
    assert (source.name, captions(rows)) == ("shards", words)
    with FileServer(files_of(shards.parent)) as server:
        there, same_rows, same_pictures = everything(f"{server.url}/shards/{pattern}?key=secret")
        assert all(path.endswith("?key=secret") for _, path, _ in server.asked)
    assert (there.name, same_rows, same_pictures) == ("shards", rows, pictures)


def test_a_pattern_reaches_over_folders_and_may_hold_a_glob(shards):
    (shards.parent / "more").mkdir()
    (shards / "c.parquet").rename(shards.parent / "more" / "c.parquet")
    source, rows, _ = everything(f"{shards.parent}/{{shards,more}}/*.parquet")
    assert sorted(captions(rows)) == ["a", "b", "c"]
    with FileServer(files_of(shards.parent)) as server:
        rows = everything(f"{server.url}/{{shards/a,more/c}}.parquet")[1]
    assert sorted(row.id for row in rows) == ["more/c.parquet#0", "shards/a.parquet#0"]
    assert source.kind == "captions"


def test_a_missing_file_of_a_pattern_is_named(shards):
    with pytest.raises(
        ValueError, match=r"shards/00012.tar: no such file, and the pattern .*\{00010..00012\}.tar names"
    ):
        open_source(f"{shards}/{{00010..00012}}.tar")
    with (
        FileServer(files_of(shards)) as server,
        pytest.raises(ValueError, match=r"/00012.tar: is not there, .*; the pattern .*\{00010..00012\}.tar names it"),
    ):
        open_source(f"{server.url}/{{00010..00012}}.tar")


def test_a_file_whose_name_has_braces_is_that_file(shards):
    (shards / "a.parquet").rename(shards / "{a,b}.parquet")
    assert captions(everything(str(shards / "{a,b}.parquet"))[1]) == ["a"]


@pytest.mark.slow
def test_a_pattern_in_s3(shards, monkeypatch):
    with s3_server(monkeypatch) as (_, client):
        client.create_bucket(Bucket="patterns")
        for path in shards.iterdir():
            client.upload_file(str(path), "patterns", f"set/{path.name}")
        for pattern, words in PATTERNS:
            assert captions(everything(f"s3://patterns/set/{pattern}")[1]) == words
        with pytest.raises(ValueError, match=r"set/d.parquet: is not there, .* names it"):
            open_source("s3://patterns/set/{a,d}.parquet")
