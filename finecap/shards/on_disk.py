"""What lies in a folder that strangers filled: which files there are, and the bytes of one of them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container
from pathlib import Path

# A single file or member above this is never read into memory, whatever the recipe allows.
MAX_ITEM_BYTES = 2**29
# What the file system says of a single name, and not of the disk.
UNREADABLE = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
}


def sizes_below(root: Path, start: Path, suffixes: Container[str]) -> dict[str, int]:
    """The size of each file below `start` that has one of these suffixes (lower case, with dot), by its path below
    `root`, in order of the paths. Hidden files and links that lead out of `root` are left out.

    Raises:
        ValueError: a folder cannot be read, or a name is not UTF-8.
    """
    found = {}
    for folder, folders, files in os.walk(start, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = os.path.join(folder, name)
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            if os.path.isfile(path) and is_inside(root, path):
                found[checked_name(os.path.relpath(path, root))] = os.path.getsize(path)
    return dict(sorted(found.items()))


def is_inside(root: Path, path: str) -> bool:
    """Or does a link lead out of the folder? What `huggingface_hub` downloads is made of links into a folder beside
    it, which holds files of the same repository only.
    """
    real = os.path.realpath(path)
    return any(real.startswith(os.path.realpath(folder) + os.sep) for folder in (root, *_hub_files(root)))


def _hub_files(root: Path) -> list[Path]:
    """Where the files of a snapshot lie: `datasets--<owner>--<name>/{blobs,snapshots/<commit>}`."""
    snapshot = next((one for one in (root, *root.parents) if one.parent.name == "snapshots"), None)
    repository = snapshot and snapshot.parent.parent
    return [repository / "blobs"] if repository and "--" in repository.name else []


def _raise(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error


def checked_name(name: str) -> str:
    """The name as records write it.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r}: the file name is not UTF-8, so no record can name it; rename it") from None
    return Path(name).as_posix()


def read_whole(path: Path) -> tuple[bytes | None, str | None]:
    """The bytes of one file, or None and why not, as a reject reason.

    Raises:
        OSError: the disk fails, which is no matter of this file alone.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited on for ever
            return None, "unreadable: no regular file"
        if status.st_size > MAX_ITEM_BYTES:
            return None, f"too large: {status.st_size} bytes"
        return path.read_bytes(), None
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return None, f"unreadable: {error.strerror}"
