"""The same rows come over the network as from the disk, whatever fails in between, and no more bytes than needed."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import webdataset

from finecap.errors import StopRun
from finecap.sources import remote
from finecap.sources.door import open_source
from finecap.sources.rows import BadRow
from tests.support.file_servers import FAULTS, FileServer, files_of, hub_of, s3_server
from tests.support.paths import ROOT
from tests.support.sources import captions, everything, picture

PICTURES = [picture(number, (120, 90)) for number in range(24)]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)


@pytest.fixture
def folder(tmp_path):
    """One of each: parquet (a/, with sizes), pictures (b/), an archive and conversations."""
    for place in ("a", "b", "c"):
        (tmp_path / "files" / place).mkdir(parents=True)
    root = tmp_path / "files"
    words = [f"picture {number}" for number in range(24)]
    table = pa.table({"image": PICTURES, "caption": words, "width": [120] * 24, "height": [90] * 24})
    pq.write_table(table, root / "a" / "train-0.parquet", row_group_size=8)
    for number in range(3):
        (root / "b" / f"{number}.png").write_bytes(PICTURES[number])
    (root / "b" / "1.txt").write_text("one")
    with webdataset.TarWriter(str(root / "c" / "a.tar")) as writer:
        for number in range(24):
            writer.write({"__key__": f"{number:05d}", "png": PICTURES[number], "txt": words[number]})
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    rows = [{"image": path, "conversations": said} for path in ("b/0.png", "b/2.png", "b/9.png", "../x.png", "/x.png")]
    (root / "llava.json").write_text(json.dumps([*rows, {"image": "https://x/y.png", "conversations": said}]))
    return root


@pytest.fixture
def server(folder):
    with FileServer(files_of(folder)) as running:
        yield running


def same_as_local(remotely, locally):
    (source, rows, pictures), (theirs, local_rows, local_pictures) = everything(remotely), everything(locally)
    assert (source.kind, source.name) == (theirs.kind, theirs.name)
    assert rows == local_rows
    assert pictures == local_pictures
    return rows


FILES = ["a/train-0.parquet", "c/a.tar", "llava.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_web_server_is_the_file(folder, server, name):
    rows = same_as_local(f"{server.url}/{name}", str(folder / name)) if name != "llava.json" else None
    assert rows is None or captions(rows) == [f"picture {number}" for number in range(24)]


def test_paths_of_remote_conversations_stay_below_their_folder(server):
    rows = everything(f"{server.url}/llava.json")[1]
    assert [row.reason if isinstance(row, BadRow) else row.sizes for row in rows] == [
        [(120, 90)],
        [(120, 90)],
        "unreadable: FileNotFoundError",
        "path refused: '../x.png' leads out of the source's folder",
        "path refused: '/x.png' leads out of the source's folder",
        "link: 'https://x/y.png' is not fetched; `finevit caption` with ingest.allow_urls does that",
    ]
    assert not any("x.png" in path for _, path, _ in server.asked)


def test_words_are_read_without_the_pictures_and_one_row_group_without_the_others(folder, tmp_path):
    pictures = [bytes([number]) * 2_000_000 for number in range(6)]
    table = pa.table({"image": pictures, "caption": list("abcdef"), "width": [2] * 6, "height": [2] * 6})
    pq.write_table(table, folder / "large.parquet", row_group_size=2, compression="none", use_dictionary=False)
    with FileServer(files_of(folder)) as server:
        source = open_source(f"{server.url}/large.parquet")
        rows = [row for part in source.parts for row in source.read_rows(part)]
        assert captions(rows) == list("abcdef")
        words = server.sent
        assert source.read_pictures(source.parts[1], [0, 1]) == {0: [pictures[2]], 1: [pictures[3]]}
        assert 4_000_000 <= server.sent - words < 4_300_000
    assert words < 400_000


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES[:2])
def test_what_fails_for_a_while_is_tried_again(folder, server, name, fault):
    server.faults = [fault, fault, None] * 40
    same_as_local(f"{server.url}/{name}", str(folder / name))
    assert len(server.faults) < 117


def test_an_answer_that_comes_too_late_is_asked_for_again(folder, server, monkeypatch):
    monkeypatch.setattr(remote, "READ_SECONDS", 0.3)
    server.faults = [None, "late", None, "late"]
    same_as_local(f"{server.url}/{FILES[0]}", str(folder / FILES[0]))
    assert server.faults == []


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_ends_with_what_failed_and_how(server, monkeypatch, fault):
    monkeypatch.setattr(remote, "MOST_TRIES", 3)
    source = open_source(f"{server.url}/{FILES[0]}")
    server.faults, server.forever = [fault], True
    with pytest.raises(
        StopRun, match=r"a/train-0.parquet: nothing complete came in 3 tries \(.*\). This may be an outage"
    ):
        source.read_rows(source.parts[0])


def test_a_file_that_is_gone_is_said_at_once(folder, server):
    source = open_source(f"{server.url}/{FILES[0]}")
    (folder / FILES[0]).unlink()
    with pytest.raises(StopRun, match=r"train-0.parquet: its size cannot be read \(FileNotFoundError\); it is gone"):
        source.read_rows(source.parts[0])
    with pytest.raises(ValueError, match=r"train-0.parquet: is not there, or may not be read"):
        open_source(f"{server.url}/{FILES[0]}")


def test_a_server_without_ranges_is_refused(folder):
    with FileServer(files_of(folder, ranges=False)) as server:
        source = open_source(f"{server.url}/{FILES[0]}")
        with pytest.raises(StopRun, match="the server sends more than the range that it is asked for"):
            source.read_rows(source.parts[0])


def test_a_folder_of_a_web_server_cannot_be_listed(server):
    with pytest.raises(ValueError, match="names a single file; a web server has no list"):
        open_source(f"{server.url}/a")
    with pytest.raises(ValueError, match="names a single file"):
        open_source(f"{server.url}/a/*.parquet")


def test_the_key_of_a_signed_link_is_sent_and_shown_nowhere(server, monkeypatch):
    monkeypatch.setattr(remote, "MOST_TRIES", 1)
    source = open_source(f"{server.url}/{FILES[0]}?signature=secret")
    rows = source.read_rows(source.parts[0])
    assert all(path.endswith("?signature=secret") for _, path, _ in server.asked)
    server.faults, server.forever = ["503"], True
    with pytest.raises(StopRun) as caught:
        source.read_rows(source.parts[0])
    assert "secret" not in str([source.name, source.parts, rows, caught.value])


def test_pictures_beside_remote_data_are_fetched_together(folder):
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    rows = [{"image": f"b/{number % 3}.png", "conversations": said} for number in range(4)]
    (folder / "four.json").write_text(json.dumps(rows))
    files, together = files_of(folder), threading.Barrier(4)

    def answer(method, path, headers, body):
        if path.endswith(".png"):
            together.wait(timeout=30)  # which one request after the other would never pass
        return files(method, path, headers, body)

    with FileServer(answer) as server:
        _, _, pictures = everything(f"{server.url}/four.json")
    assert pictures == [[PICTURES[number % 3]] for number in range(4)]


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_a_missing_package_is_named(monkeypatch, protocol):
    package = {"s3": "s3fs", "http": "aiohttp"}[protocol]
    monkeypatch.delitem(
        sys.modules["fsspec.registry"]._registry, protocol, raising=False
    )  # it keeps what was imported
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{protocol}:// needs more packages .*pip install 'finevit\[remote\]'"):
        open_source(f"{protocol}://127.0.0.1/a.parquet")


READ_HUB = """
import pickle, sys
from tests.support.sources import everything
source, rows, pictures = everything(sys.argv[1])
sys.stdout.buffer.write(pickle.dumps((source.kind, rows, pictures)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("faults", [[], ["503", None, "503", None, "lost", None, "cut"]], ids=["sound", "faulty"])
def test_a_data_set_of_the_hub_is_read_as_the_disk_is(folder, tmp_path, faults):
    """In a process of its own, because the Hub's client looks once where the Hub is."""
    with FileServer(hub_of(folder)) as hub:
        settings = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        for name in ("a", "b", "c/*.tar", "llava.json"):
            hub.faults = list(faults)
            command = [sys.executable, "-c", READ_HUB, f"hf://datasets/o/n/{name}"]
            done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()[-3000:]
            kind, rows, pictures = pickle.loads(done.stdout)
            if name != "llava.json":
                source, local_rows, local_pictures = everything(str(folder / name))
                assert (kind, rows, pictures) == (source.kind, local_rows, local_pictures)
            assert hub.faults == []
        assert [isinstance(row, BadRow) for row in rows] == [False, False, True, True, True, True]


def test_s3_without_credentials_is_said_at_once(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"may not be read .*Unable to locate credentials"):
        open_source("s3://bucket/a.parquet")
    assert time.monotonic() - start < 10


@pytest.fixture
def s3(folder, monkeypatch):
    with s3_server(monkeypatch) as (front, client):
        client.create_bucket(Bucket="bucket")
        for path in folder.rglob("*.*"):
            client.upload_file(str(path), "bucket", f"set/{path.relative_to(folder).as_posix()}")
        yield front


@pytest.mark.slow
@pytest.mark.parametrize("faults", [[], ["503", None, "cut", None, "lost", None]], ids=["sound", "faulty"])
def test_s3_is_read_as_the_disk_is(folder, s3, faults):
    for name in ("a", "b", "c", "a/*.parquet", "a/train-0.parquet"):
        s3.faults = faults * 3
        rows = same_as_local(f"s3://bucket/set/{name}", str(folder / name))
        assert len(rows) == (3 if name == "b" else 24)
    s3.faults = list(faults)
    rows = everything("s3://bucket/set/llava.json")[1]
    assert [isinstance(row, BadRow) for row in rows] == [False, False, True, True, True, True]


@pytest.mark.slow
def test_what_is_not_in_s3_is_said(s3):
    for name in ("bucket/nothing", "nobody/set", "bucket/set/nothing.parquet", "bucket/set/*.tar"):
        with pytest.raises(ValueError, match=r"is not there, or may not be read|holds no file of a known kind"):
            open_source(f"s3://{name}")


def test_what_opens_a_link_is_in_no_message_and_names_are_taken_as_they_are(tmp_path):
    names = ["a b.png", "x#1.png", "q?.png", "p%20q.png", "é.png", "a+b.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(PICTURES[number])
    rows = "".join(json.dumps({"file_name": name, "text": name}) + "\n" for name in names)
    (tmp_path / "metadata.jsonl").write_text(rows)
    with FileServer(files_of(tmp_path)) as server:
        url = server.url.replace("://", "://user:PASSWORD@")
        _, found, pictures = everything(f"{url}/metadata.jsonl?X-Amz-Signature=SECRET")
        assert captions(found) == names
        assert pictures == [[one] for one in PICTURES[: len(names)]]
        for missing in (f"{url}/no.jsonl?X-Amz-Signature=SECRET", f"{url}/no.parquet"):
            with pytest.raises(ValueError, match="is not there") as error:
                open_source(missing)
            assert "PASSWORD" not in str(error.value)
            assert "SECRET" not in str(error.value)
