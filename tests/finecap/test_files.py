"""Files and folders that appear whole or not at all, also on odd file systems and after kills."""

import errno
import os
import time
from pathlib import Path

import pytest

from finecap import files
from finecap.errors import StopRun
from finecap.files import claimed, committed, committed_folder, link_or_copy, write_text


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    """Every path that was synced, as it was named then."""
    found: list[Path] = []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_a_folder_is_synced_with_every_file_and_folder_before_it_gets_its_name(tmp_path, synced):
    out = tmp_path / "dataset"
    for content in ("old", "new"):
        synced.clear()
        with committed_folder(out) as aside:
            (aside / "data").mkdir()
            for name in ("README.md", "data/a.parquet"):
                (aside / name).write_text(content)
        assert {path.name for path in synced} == {"README.md", "a.parquet", "data", aside.name, tmp_path.name}
        assert synced[-1] == tmp_path
        assert (out / "data" / "a.parquet").read_text() == content
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_could_not_be_written_leaves_the_older_one(tmp_path):
    with committed_folder(tmp_path / "dataset") as aside:
        (aside / "a").write_text("old")

    def fill() -> None:
        with committed_folder(tmp_path / "dataset") as aside:
            (aside / "b").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StopRun, match="No space left"):
        fill()
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["a"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("code", "stops"), [(errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.EIO, True)])
def test_file_systems_that_do_not_sync_folders_are_written_to_all_the_same(tmp_path, monkeypatch, code, stops):
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(code, os.strerror(code))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if stops:
        with pytest.raises(OSError, match=os.strerror(code)):
            write_text(tmp_path / "a", "x")
    else:
        write_text(tmp_path / "a", "x")
        assert (tmp_path / "a").read_text() == "x"


def test_a_file_that_cannot_be_synced_is_an_error_whatever_it_is(tmp_path, monkeypatch):
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid"), committed(tmp_path / "a") as aside:
        aside.write_text("x")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_links_files_are_copied(tmp_path, monkeypatch, code):
    def link(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").write_text("x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    monkeypatch.setattr(os, "link", link)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x"
    assert not (tmp_path / "c").samefile(tmp_path / "a")


def test_what_a_killed_writer_left_goes_with_the_next_write_and_a_living_ones_stays(tmp_path):
    old, young, other = (tmp_path / name for name in (".a.0123.tmp", ".a.4567.tmp", ".b.0123.tmp"))
    for path in (old, young, other):
        path.write_text("half")
    hours_ago = time.time() - 2 * files.LEFT_OVER_SECONDS
    for path in (old, other):
        os.utime(path, (hours_ago, hours_ago))
    write_text(tmp_path / "a", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.4567.tmp", ".b.0123.tmp", "a"]


def test_a_claim_whose_owner_ends_at_that_moment_is_not_mine_and_no_error(tmp_path, monkeypatch):
    plain = files.fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        plain(descriptor, operation)
        (tmp_path / ".output.lock").unlink()  # the owner before removes it once it is done

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with claimed(tmp_path / "output") as mine:
        assert mine is False
