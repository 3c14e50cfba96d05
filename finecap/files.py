"""Files that appear whole or not at all, and who is at work on one.

Disk errors that would come again become `StopRun`, which says where and what to do.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finecap.errors import StopRun

# What would come again: no space, quota, read-only file system, no permission.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
# What file systems without locks answer (Lustre that is mounted without `flock`, NFS without its lock daemon).
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# What file systems answer that do not sync folders, or keep no second name for a file.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EISDIR}
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
# A file of a few kilobytes that is older was left by a process that was killed while it wrote.
LEFT_OVER_SECONDS = 3600.0


@contextmanager
def committed(path: Path, tag: str = "") -> Generator[Path]:
    """Write aside, sync, rename: `path` appears whole or not at all.

    What a killed process left aside is written over by the next one. So two must not write the same path at once:
    claim it, or give a `tag` of one's own.

    Yields:
        The path to write to. It is removed when the block raises.

    Raises:
        StopRun: the disk is full or cannot be written; says where.
    """
    aside = path.with_name(f".{path.name}{tag}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise_disk_error(error, path)
        raise
    finally:
        with suppress(OSError):  # it is not there on a read-only disk, and the error that counts is under way
            aside.unlink(missing_ok=True)


@contextmanager
def committed_folder(path: Path) -> Generator[Path]:
    """As `committed`, for a folder with all that is in it; one that is there is replaced. Claim it first.

    Yields:
        The empty folder to write to.

    Raises:
        StopRun: the disk is full or cannot be written; says where.
    """
    aside, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for folder, _, files in os.walk(aside):
            for name in files:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
        _sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise_disk_error(error, path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def raise_disk_error(error: OSError, path: Path) -> None:
    """Raise StopRun if `error` says that the folder of `path` is full or cannot be written; else return."""
    if error.errno in DISK_ERRORS and not _is_elsewhere(error, path):
        raise StopRun(
            f"{path.parent}: cannot be written ({os.strerror(error.errno)}). Finished shards and paid answers are "
            "kept; free space or correct the permissions, then run the same command again."
        ) from error


def _is_elsewhere(error: OSError, path: Path) -> bool:
    """Does it name a file that is not ours, such as a model that may not be read?"""
    if not isinstance(error.filename, str | bytes | Path):
        return False
    named = Path(os.fsdecode(error.filename))
    return not named.is_relative_to(path.parent) and not path.is_relative_to(named)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, whoever else writes it, and remove what killed writers left of it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):  # its writer may have just finished it
            if time.time() - left.stat().st_mtime > LEFT_OVER_SECONDS:
                left.unlink()
    with committed(path, f".{uuid.uuid4().hex[:12]}") as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


@contextmanager
def claimed(path: Path) -> Generator[bool]:
    """Claim the work on output `path` among all processes that share the folder; the death of the owner frees it.

    Yields:
        False when another process is at work on it.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise_disk_error(error, path)
        raise
    mine = False
    try:
        mine = _lock(descriptor, lock)
        yield mine
    finally:
        if mine:
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(descriptor: int, lock: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise StopRun(
                f"{lock.parent}: the file system has no locks ({os.strerror(error.errno)}), and without them two "
                "processes would write one file. Mount it with them (Lustre: -o flock), or put the run somewhere else."
            ) from error
        raise
    # The owner before removes the file when done: a lock on a removed file keeps nobody out.
    try:
        return os.stat(lock).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
