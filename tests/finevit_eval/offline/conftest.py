"""A Debian package that is made here, published in a folder, and a cache of its own for each test."""

import hashlib
import io
import tarfile

import pytest

from finevit_eval.offline import debian
from finevit_eval.offline.debian import DebianFile


def write_deb(path, files):
    """Write a package with `files` (absolute path -> bytes), as dpkg-deb does: ar around tar.xz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f".{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Files -> the package that holds them, in a pool that is a folder of this test; nothing else can be reached."""
    pool = tmp_path / "pool"
    monkeypatch.setattr(debian, "POOL", pool.as_uri())
    monkeypatch.setattr(debian, "BY_SHA1", (tmp_path / "nowhere").as_uri())
    monkeypatch.setattr(debian, "cached_assets_path", lambda *names: tmp_path / "cache")

    def publish(files, name="stamps_1_all.deb"):
        write_deb(pool / "s" / name, files)
        content = (pool / "s" / name).read_bytes()
        return DebianFile(name, "s", len(content), "0" * 40, hashlib.sha256(content).hexdigest())

    return publish
