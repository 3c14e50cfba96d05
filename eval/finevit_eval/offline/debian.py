"""Data files of Debian packages: fetched once, checked by their hash each time, and read without being unpacked.

A package (`.deb`) is an `ar` archive; its member `data.tar.*` holds the files.
"""

import hashlib
import os
import tarfile
from collections.abc import Container
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.request import urlopen

from huggingface_hub import cached_assets_path
from tqdm import tqdm

from finecap.files import committed

POOL = "https://deb.debian.org/debian/pool/main"
BY_SHA1 = "https://snapshot.debian.org/file"
"""Keeps every file that Debian ever published; the pool keeps those of releases that are supported."""
SECONDS = 60.0
CHUNK = 2**20
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


class DebianFile(NamedTuple):
    """A package of one version. `folder`: its place in the pool; `size`: in bytes."""

    name: str
    folder: str
    size: int
    sha1: str
    sha256: str

    @property
    def urls(self) -> tuple[str, str]:
        """Where it is published."""
        return f"{POOL}/{self.folder}/{self.name}", f"{BY_SHA1}/{self.sha1}"

    @property
    def path(self) -> Path:
        """Where it is kept: in the cache of huggingface_hub (`HF_HOME`, `HF_ASSETS_CACHE`)."""
        return cached_assets_path("finevit", "debian") / self.name


def fetch(package: DebianFile) -> Path:
    """The package on this disk; it is fetched if it is not in the cache.

    Raises:
        ValueError: It cannot be fetched, or what came or was there is another file.
    """
    path = package.path
    if not path.is_file():
        _fetch_any(package)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(f"{path} has the SHA-256 {found}, expected {package.sha256}; remove it and run again.")
    return path


def _fetch_any(package: DebianFile) -> None:
    reasons = []
    for url in package.urls:
        try:
            return _fetch(package, url)
        except (OSError, HTTPException, _OtherFile) as error:
            reasons.append(f"{url}: {error}")
    raise ValueError(
        f"{package.name} ({package.size / 1e6:.0f} MB) cannot be fetched ({'; '.join(reasons)}). Fetch it on a machine"
        f" that is connected, and put it at {package.path}."
    )


class _OtherFile(Exception):
    """What came is not what was asked for."""


def _fetch(package: DebianFile, url: str) -> None:
    digest, left = hashlib.sha256(), package.size
    with (
        committed(package.path, f".{os.getpid()}") as aside,
        urlopen(url, timeout=SECONDS) as answer,
        aside.open("wb") as file,
        tqdm(total=package.size, unit="B", unit_scale=True, desc=package.name) as progress,
    ):
        while left >= 0 and (part := answer.read(CHUNK)):
            digest.update(part)
            file.write(part)
            left -= len(part)
            progress.update(len(part))
        if left:
            raise _OtherFile(f"it ended {left} bytes early" if left > 0 else f"it has more than {package.size} bytes")
        if digest.hexdigest() != package.sha256:
            raise _OtherFile(f"its SHA-256 is {digest.hexdigest()}, expected {package.sha256}")


def read_files(deb: Path, folder: str, suffixes: Container[str]) -> dict[str, bytes]:
    """Files below a folder of a package, by their path below it, in order of the paths. Nothing is written to disk.

    Args:
        deb: The package, checked by `fetch`.
        folder: Absolute, as installed.
        suffixes: Of the files that are wanted, lower case, with dot.

    Raises:
        ValueError: It is no Debian package.
    """
    found = {}
    with deb.open("rb") as file:
        _seek_data(file, deb)
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                path = PurePosixPath("/", member.name)
                wanted = path.is_relative_to(folder) and path.suffix.lower() in suffixes
                if wanted and member.isfile() and (content := archive.extractfile(member)):
                    found[path.relative_to(folder).as_posix()] = content.read()
    return dict(sorted(found.items()))


def _seek_data(file: BinaryIO, deb: Path) -> None:
    """Go to the first byte of `data.tar.*`."""
    if file.read(len(AR_MAGIC)) == AR_MAGIC:
        while len(header := file.read(AR_HEADER)) == AR_HEADER:
            if header.startswith(b"data.tar"):
                return
            size = int(header[48:58])
            file.seek(size + size % 2, os.SEEK_CUR)  # members begin at even bytes
    raise ValueError(f"{deb} is no Debian package: an ar archive with a member data.tar.*.")
