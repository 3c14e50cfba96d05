"""Untrusted archives: every member ends as a row or as its problem, and no header raises or costs time."""

import io
import tarfile
import time
from pathlib import Path

import pytest
import webdataset
from hypothesis import example, given
from hypothesis import strategies as st

from finecap.shards import tar
from finecap.shards.plan import PICTURES, plan_shards, read_shard


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def rows_of(path: Path, rows_per_shard: int = 3) -> list[dict]:
    return [row for shard in plan_shards(path, rows_per_shard) for row in read_shard(shard)]


@given(st.text(alphabet="ab./é", max_size=12))
@example("a/b/.x.jpg")
@example("a.b/.x.jpg")
@example("/.x")
@example(".x")
def test_names_are_split_as_webdataset_splits_them(name):
    theirs = webdataset.tariterators.base_plus_ext(name)
    assert (tar.split_name(name) or (None, None)) == theirs


def test_a_name_of_two_megabytes_is_split_in_no_time():
    start = time.process_time()
    assert tar.split_name("a/" * 2**20) is None
    assert tar.split_name("a/" * 2**20 + ".") is not None
    assert time.process_time() - start < 10  # the pattern took 12 s for 60 kB, 2 % of this


def header(size: bytes, name: bytes = b"b.jpg", kind: bytes = b"0") -> bytes:
    """A header with the 12 bytes of its size as given."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[156:157] = size.ljust(12, b"\0"), b"00000000000\0", kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def pax(*records: bytes) -> bytes:
    """A header with attributes, and the member that they are of, with a block of content."""
    body = b""
    for record in records:
        length = len(record) + 3
        while len(b"%d %s\n" % (length, record)) != length:
            length += 1
        body += b"%d %s\n" % (length, record)
    attributes = header(b"%011o\0" % len(body), b"pax", b"x") + body.ljust(-(-len(body) // 512) * 512, b"\0")
    return attributes + header(b"%011o\0" % 512) + b"not a number\n".ljust(512, b"x")


HOSTILE = {
    "size 2^62": header(base256(2**62)),
    "size 2^70": header(base256(2**70)),
    "size below zero": header(b"\xff" * 12),
    "a pax header of 2^62 bytes": header(base256(2**62), kind=b"x"),
    "a pax header of 2^70 bytes": header(base256(2**70), kind=b"x"),
    "a long name of 2^62 bytes": header(base256(2**62), kind=b"L"),
    "a pax size of 40 digits": pax(b"size=" + b"9" * 40),
    "a pax size that is none": pax(b"size=x"),
    "a sparse map that is none": pax(b"GNU.sparse.map=1,x,2"),
    "a sparse map of version 1.0 that is none": pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0"),
    "a path of 400 kB": pax(b"path=" + b"a/" * 200_000 + b"b.jpg"),
}


@pytest.mark.parametrize("rows_per_shard", [1, 10])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_ends_the_archive_and_costs_no_other_row(tmp_path, name, rows_per_shard):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"sound")])
    sound = path.read_bytes()[:1024]
    path.write_bytes(sound + HOSTILE[name] + bytes(1024))
    start = time.process_time()
    rows = rows_of(path, rows_per_shard)
    assert time.process_time() - start < 2
    assert (rows[0]["key"], rows[0]["bytes"], rows[0]["problem"]) == ("x.tar/a.jpg", b"sound", None)
    assert 2 <= len(rows) <= 3  # that member, the end of the archive, or both
    path.write_bytes(HOSTILE[name] + bytes(1024))
    assert 1 <= len(rows_of(path)) <= 2


def test_two_members_of_one_name_beside_each_other_are_two_rows(tmp_path):
    members = [("a.jpg", b"1"), ("a.json", b'{"license": "x"}'), ("a.jpg", b"2"), ("a.jpg", b"3"), ("b.jpg", b"4")]
    for rows_per_shard in (1, 2, 10):
        rows = rows_of(write_tar(tmp_path / "x.tar", members), rows_per_shard)
        assert [(row["key"], row["bytes"], row["license"]) for row in rows] == [
            ("x.tar/a.jpg", b"1", "x"),
            ("x.tar/a.jpg#2", b"2", None),
            ("x.tar/a.jpg#3", b"3", None),
            ("x.tar/b.jpg", b"4", None),
        ]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_place_of_pictures_are_said(tmp_path, kind):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.jpg", "c.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
            link = tarfile.TarInfo("b.jpg")
            link.type, link.linkname = kind, "a.jpg"
            if name == "a.jpg":
                archive.addfile(link)
    rows = rows_of(path)
    assert [row["bytes"] for row in rows] == [b"x", None, b"x"]
    assert rows[1]["problem"].startswith("unreadable: the archive holds a link or device in place of b.jpg")


@pytest.mark.parametrize("options", [{}, {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": "for all"}}])
def test_a_shard_begins_where_its_first_sample_lies(tmp_path, options):
    long = "long" * 60  # names that need a header before the header
    members = [(f"{long}/{number:03}.jpg", bytes([number]) * 600) for number in range(20)]
    members += [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]
    path = write_tar(tmp_path / "x.tar", members, **options)
    parts = tar.cut_samples(path, PICTURES, 4)
    assert all(part.offset > 0 for part in parts[1:]) == (not options)
    whole = [(row["key"], row["bytes"]) for row in rows_of(path, 1000)]
    assert [(row["key"], row["bytes"]) for row in rows_of(path, 4)] == whole
    assert whole[-1] == ("x.tar/a.jpg#2", b"3")


def test_the_last_shard_of_a_large_archive_reads_no_header_before_it(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", [(f"{number}.jpg", b"x") for number in range(3000)])
    shards = plan_shards(path, 10)
    read = 0
    plain = tarfile.TarInfo.frombuf.__func__

    def counted(cls, *arguments):
        nonlocal read
        read += 1
        return plain(cls, *arguments)

    monkeypatch.setattr(tarfile.TarInfo, "frombuf", classmethod(counted))
    assert len(list(read_shard(shards[-1]))) == 10
    assert read <= 12
