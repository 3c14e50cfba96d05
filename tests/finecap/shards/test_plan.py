"""Input of any kind: the same plan each time, every item once, what is broken said and never silently missing."""

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.shards.plan import plan_shards, read_shard


def rows_of(source: Path, rows_per_shard: int = 3) -> list[dict]:
    return [row for shard in plan_shards(source, rows_per_shard) for row in read_shard(shard)]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    source = tmp_path / "pictures"
    for name in ("b.jpg", "a/x.PNG", "a/.hidden.jpg", ".cache/y.jpg", "a/note.txt", "c/z.webp", "c/d/w.gif"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    (source / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (source / "inner.jpg").symlink_to("b.jpg")
    return source


def test_a_folder_is_read_in_order_without_hidden_files_and_links_that_lead_out(folder):
    rows = rows_of(folder)
    assert [row["key"] for row in rows] == ["a/x.PNG", "b.jpg", "c/d/w.gif", "c/z.webp", "inner.jpg"]
    assert rows[0] == {
        **dict.fromkeys(["url", "problem", "source", "license", "split"]),
        "key": "a/x.PNG",
        "bytes": b"a/x.PNG",
    }


def test_a_plan_is_the_same_for_the_same_input_wherever_it_lies_and_another_for_other_input(folder, tmp_path):
    names = [shard.name for shard in plan_shards(folder, 3)]
    assert [name[:6] for name in names] == ["00000-", "00001-"]
    assert [shard.name for shard in plan_shards(folder, 3)] == names
    moved = folder.rename(tmp_path / "moved")
    assert [shard.name for shard in plan_shards(moved, 3)] == names
    (moved / "b.jpg").write_bytes(b"longer than before")
    changed = [shard.name for shard in plan_shards(moved, 3)]
    assert changed[0] != names[0]


def test_sidecar_metadata_is_honoured_and_pictures_it_lists_but_that_are_gone_are_said(folder):
    (folder / "metadata.csv").write_text("file_name,license,split\nb.jpg,cc0,test\na/x.PNG,mit,\ngone.jpg,cc0,train\n")
    (folder / "c" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "d/w.gif", "source": "zoo", "size": 3}) + "\n"
    )
    rows = {row["key"]: row for row in rows_of(folder)}
    assert (rows["b.jpg"]["license"], rows["b.jpg"]["split"]) == ("cc0", "test")
    assert (rows["a/x.PNG"]["license"], rows["a/x.PNG"]["split"]) == ("mit", None)
    assert rows["c/d/w.gif"]["source"] == "zoo"
    assert rows["gone.jpg"]["bytes"] is None
    assert rows["gone.jpg"]["problem"].startswith("unreadable: ")


def test_metadata_cannot_smuggle_in_links_that_lead_out_nor_pipes(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "metadata.csv").write_text("file_name,license\nlink.jpg,cc0\npipe.jpg,cc0\ninner.jpg,cc0\n")
    rows = {row["key"]: row for row in rows_of(folder)}
    assert "link.jpg" not in rows
    assert rows["pipe.jpg"]["problem"] == "unreadable: no regular file"
    assert rows["inner.jpg"]["bytes"] == b"b.jpg"


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/passwd"])
def test_metadata_cannot_name_files_outside_of_the_folder(folder, name):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name}))
    with pytest.raises(ValueError, match="leads out of the folder"):
        plan_shards(folder, 3)


def test_a_picture_that_vanished_after_planning_is_a_problem_of_its_own(folder):
    shards = plan_shards(folder, 100)
    (folder / "b.jpg").unlink()
    rows = {row["key"]: row for row in read_shard(shards[0])}
    assert rows["b.jpg"]["problem"] == "unreadable: No such file or directory"
    assert rows["inner.jpg"]["problem"] == "unreadable: No such file or directory"
    assert rows["a/x.PNG"]["bytes"] == b"a/x.PNG"


def test_an_input_that_vanished_as_a_whole_is_no_matter_of_single_pictures(folder):
    shards = plan_shards(folder, 100)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        list(read_shard(shards[0]))


def test_wrong_input_is_explained(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"x")
    (empty / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(ValueError, match=r"no pictures are in this folder .*links that lead out of it, are not read"):
        plan_shards(empty, 3)
    with pytest.raises(ValueError, match="no such file or folder"):
        plan_shards(tmp_path / "nowhere", 3)
    (empty / "a.jpg").write_bytes(b"x")
    write_tar(empty / "b.tar", [])
    with pytest.raises(ValueError, match="different kinds"):
        plan_shards(empty, 3)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="no column 'image' or 'url'; its columns are text"):
        plan_shards(tmp_path / "text.parquet", 3)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        plan_shards(tmp_path / "cut.parquet", 3)
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "string.parquet")
    with pytest.raises(ValueError, match="'image' is string"):
        plan_shards(tmp_path / "string.parquet", 3)


def test_file_names_that_no_record_can_hold_are_refused_at_once(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(ValueError, match="not UTF-8"):
        plan_shards(tmp_path, 3)


@pytest.mark.parametrize("rows_per_shard", [1, 4, 7, 100])
def test_parquet_is_cut_by_rows_across_row_groups(tmp_path, rows_per_shard):
    pictures = [{"bytes": bytes([number]), "path": None} for number in range(20)]
    table = pa.table({"image": pictures, "license": [None, "cc0"] * 10, "other": list(range(20))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=6)
    pq.write_table(table.select(["image"]).slice(0, 2), tmp_path / "b.parquet")
    rows = rows_of(tmp_path, rows_per_shard)
    keys = [f"a.parquet#{number}" for number in range(20)] + ["b.parquet#0", "b.parquet#1"]
    assert [row["key"] for row in rows] == keys
    assert [row["bytes"] for row in rows] == [bytes([number]) for number in [*range(20), 0, 1]]
    assert [row["license"] for row in rows[:3]] == [None, "cc0", None]


def test_bare_bytes_links_and_rows_without_anything_are_read(tmp_path):
    pq.write_table(pa.table({"image": [b"x", None, None], "url": ["u", "v", None]}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path)
    assert [(row["bytes"], row["url"]) for row in rows] == [(b"x", "u"), (None, "v"), (None, None)]
    assert [row["problem"] is not None for row in rows] == [False, False, True]


def test_a_corrupt_row_group_costs_its_rows_and_no_others(tmp_path):
    path = tmp_path / "a.parquet"
    pictures = [os.urandom(2000) for _ in range(12)]
    pq.write_table(pa.table({"image": pictures}), path, row_group_size=4, use_dictionary=False)
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(0)
    data[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    rows = rows_of(path, 5)
    assert [row["key"] for row in rows] == [f"a.parquet#{number}" for number in range(12)]
    assert [row["bytes"] for row in rows] == [*pictures[:4], *[None] * 4, *pictures[8:]]
    assert all(row["problem"].startswith("unreadable: ") for row in rows[4:8])


@pytest.mark.slow
def test_an_embedded_corpus_is_input_without_its_gallery(tmp_path):
    from finecap.corpus.build import build_corpus  # slow to import

    build_corpus(tmp_path, 12, workers=1, report=lambda line: None)
    assert list((tmp_path / "gallery").glob("*.png"))
    rows = rows_of(tmp_path, 3)
    truth = [record for path in sorted((tmp_path / "data").iterdir()) for record in pq.read_table(path).to_pylist()]
    assert [row["bytes"] for row in rows] == [record["image"]["bytes"] for record in truth]
    for field in ("source", "license", "split"):
        assert [row[field] for row in rows] == [record[field] for record in truth]


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "dir/a", "dir.x/c", "é"]),
        st.sampled_from(["jpg", "json", "png", "mask.png", "txt"]),
    ),
    max_size=12,
    unique=True,
)


@settings(max_examples=40, deadline=None)
@given(names=NAMES, rows_per_shard=st.integers(1, 5))
def test_archives_are_grouped_as_the_webdataset_package_groups_them(tmp_path_factory, names, rows_per_shard):
    names = sorted(names)  # webdataset wants the members of a sample beside each other
    members = [(f"{stem}.{suffix}", f'{{"source": "{stem}{suffix}"}}'.encode()) for stem, suffix in names]
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", members)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    ours = rows_of(path, rows_per_shard)
    assert len(ours) == len(theirs)
    for row, sample in zip(ours, theirs, strict=True):
        pictures = [sample[suffix] for suffix in ("jpg", "png", "mask.png") if suffix in sample]
        assert row["bytes"] in (pictures or [None])
        assert (row["problem"] is None) == bool(pictures)
        assert row["source"] == (json.loads(sample["json"])["source"] if "json" in sample else None)
    assert len({row["key"] for row in ours}) == len(ours)


def test_an_archive_is_cut_into_shards_and_its_fields_are_read(tmp_path):
    members = []
    for number in range(7):
        members.append((f"{number}.jpg", bytes([number]) * 700))
        fields = {"url": f"http://x/{number}", "license": "cc0", "score": 1, "source": "half \ud800"}
        members.append((f"{number}.json", json.dumps(fields).encode()))
    write_tar(tmp_path / "x.tar", [*members, ("7.json", b'{"url": "u"}'), ("8.json", b"[not json"), ("README", b"x")])
    assert len(plan_shards(tmp_path, 3)) == 3
    rows = rows_of(tmp_path)
    assert [row["key"] for row in rows] == [f"x.tar/{number}.jpg" for number in range(7)] + ["x.tar/7", "x.tar/8"]
    assert (rows[3]["bytes"], rows[3]["url"], rows[3]["license"]) == (b"\3" * 700, "http://x/3", "cc0")
    assert rows[3]["source"] == "half ?"  # nothing else could be written to parquet
    assert (rows[7]["url"], rows[7]["problem"]) == ("u", None)
    assert rows[8]["problem"] == "no picture: only 8.json"


def test_an_archive_that_is_cut_anywhere_gives_what_is_whole_and_says_so(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", [(f"{number}.jpg", bytes([65 + number]) * 700) for number in range(4)])
    data = whole.read_bytes()
    cut = tmp_path / "cut" / "x.tar"
    cut.parent.mkdir()
    for length in range(0, 4 * 1536 + 1, 256):
        cut.write_bytes(data[:length])
        rows = rows_of(cut, 2)
        good = [row["bytes"] for row in rows if row["problem"] is None]
        complete = sum(number * 1536 + 512 + 700 <= length for number in range(4))
        assert good == [bytes([65 + number]) * 700 for number in range(complete)]
        assert rows[-1]["problem"].split(":")[0] in ("truncated", "unreadable"), length
        assert len({row["key"] for row in rows}) == len(rows)


def test_an_archive_with_a_broken_header_in_its_middle_says_so(tmp_path):
    path = write_tar(tmp_path / "x.tar", [(f"{number}.jpg", b"x" * 700) for number in range(4)])
    data = bytearray(path.read_bytes())
    data[2 * 1536 : 2 * 1536 + 512] = os.urandom(512)
    path.write_bytes(data)
    rows = rows_of(path)
    assert [row["problem"] is None for row in rows] == [True, True, False]


def test_members_of_the_same_name_get_keys_of_their_own(tmp_path):
    rows = rows_of(write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]), 1)
    assert [(row["key"], row["bytes"]) for row in rows] == [
        ("x.tar/a.jpg", b"1"),
        ("x.tar/b.jpg", b"2"),
        ("x.tar/a.jpg#2", b"3"),
    ]


@pytest.mark.parametrize("urls", [pa.array([1]), pa.array([1.5]), pa.array([b"u"]), pa.array([["u"]])])
def test_a_url_that_is_no_text_is_refused_where_it_is_needed_and_left_alone_where_it_is_not(tmp_path, urls):
    pq.write_table(pa.table({"url": urls}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: its column 'url' is .*, expected text"):
        plan_shards(tmp_path, 3)
    pq.write_table(pa.table({"url": urls, "image": [b"x"]}), tmp_path / "a.parquet")
    assert [(row["bytes"], row["url"]) for row in rows_of(tmp_path)] == [(b"x", None)]
    pq.write_table(pa.table({"url": pa.array(["u"]).dictionary_encode()}), tmp_path / "a.parquet")
    assert [row["url"] for row in rows_of(tmp_path)] == ["u"]
