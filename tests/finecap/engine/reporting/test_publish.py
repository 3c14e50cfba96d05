"""From packed shards to a dataset folder that others read."""

import base64
import errno
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from finecap.engine.passes.pack import COLUMNS
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting import publish as publish_module
from finecap.engine.reporting.dataset_stats import summarise_counts
from finecap.engine.reporting.gallery import write_gallery
from finecap.engine.reporting.publish import publish, push, record_writer
from finecap.engine.reporting.templates import table_cell
from finecap.engine.running import one_shard as runner
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.features import FINECAP_FEATURES
from finecap.shards.plan import Shard
from finecap.shards.tar_writer import export_webdataset

EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)>|*"
WIDTH, HEIGHT = 64, 48
# Shards of one split, of two, and of nothing but rejects.
SHARDS = {"00000-a": ["train"] * 5, "00001-b": ["train", "test", "train", "test"], "00002-c": [], "00003-d": ["train"]}


def picture(name):
    pixels = np.random.default_rng(sum(name.encode())).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG" if name.endswith("1") else "PNG")
    return content.getvalue()


def ingest(rows, options, context):
    for row in rows:
        found = {"id": f"shop/{row['key']}.x", "image": row["bytes"], "width": WIDTH, "height": HEIGHT}
        reject = "broken: no picture" if row["bytes"] == b"" else None
        yield {**row, **found, "license": "CC-BY-4.0", "reject": reject}


def sort_out(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "branch": "photo", "duplicate_of": None}


def recaption(rows, options, context):
    for row in rows:
        draw = random.Random(row["key"])
        text = " ".join(draw.choices(("a", "wide", "street", "of", "shops"), k=draw.randint(3, 40)))
        captions = [{"style": style, "text": text, "captioner": "m|1"} for style in ("short", "dense")]
        yield {"key": row["key"], "captions": captions, "global_caption": text, "captioner": "m|1"}


def ocr(rows, options, context):
    for row in rows:
        texts = [{"bbox": [1, 2, 30, 12], "level": "line", "text": EVIL, "score": 0.9, "line": 0}]
        yield {"key": row["key"], "texts": texts, "ocr_engine": "o 1"}


def boxes(rows, options, context):
    for row in rows:
        draw = random.Random(row["key"])
        labels = draw.choices(("shop", "door", EVIL), (8, 3, 1), k=draw.randint(0, 6))
        objects = [{"bbox": [4 * n, 3, 4 * n + 20, 40], "label": x, "phrase": x} for n, x in enumerate(labels)]
        yield {"key": row["key"], "objects": [{**item, "score": 0.5} for item in objects], "detector": "d 1"}


def local_captions(rows, options, context):
    for row in rows:
        said = (
            [{"object": 0, "caption": f"the first {EVIL}", "text": None, "captioner": "m"}] if row["objects"] else []
        )
        yield {"key": row["key"], "local_captions": said}


def verify(rows, options, context):
    for number, row in enumerate(rows):
        flags = [f"dense: number {number} not in the OCR text", f'object {number}: quote "a {number}" not in it']
        yield {
            "key": row["key"],
            "verdicts": [],
            "checks": ["numbers", f"read back {number} of 9 lines"],
            "flags": flags,
        }


FUNCTIONS = ("ingest", "recaption", "ocr", "boxes", "local_captions", "verify")


def make_run(folder, monkeypatch, shards=SHARDS, **pack):
    def read(shard):
        common = {"url": None, "source": "shops", "reject": None}
        for number, split in enumerate(SHARDS[shard.name]):
            name = f"{shard.name}-{number}"
            yield {"key": name, "bytes": picture(name), "split": split, **common}
        yield {"key": f"{shard.name}-broken", "bytes": b"", "split": "train", **common}

    monkeypatch.setattr(runner, "read_shard", read)
    monkeypatch.setattr(Run, "reduced", lambda self, name: folder / "none")
    own = {name: {"function": f"{__name__}:{name}"} for name in FUNCTIONS}
    own["ingest"] |= {"source": "shops", "license": "CC-BY-4.0"}
    own["boxes"] |= {"detector": "/models/detector"}
    rest = {name: {"function": f"{__name__}:sort_out"} for name in ("filter", "dedup")}
    recipe = recipe_from({**own, **rest, "phrases": {}, "pack": pack})
    run = Run(recipe, Store(folder), tuple(Shard(name, "folder", ()) for name in shards))
    for step in recipe.enabled():
        for shard in run.shards:
            run_shard(run, step.name, shard, {})
    return run


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make_run(tmp_path_factory.mktemp("run"), monkeypatch, webdataset=True)


@pytest.fixture(scope="module")
def published(packed):
    """The dataset folder, for tests that only look at it."""
    return publish(packed)


@pytest.fixture
def run(packed, tmp_path):
    """The packed run in a folder of the test's own."""
    shutil.copytree(packed.store.out, tmp_path / "run")
    return Run(packed.recipe, Store(tmp_path / "run"), packed.shards)


def records_of(folder):
    paths = sorted((folder / "data").glob("*.parquet"))
    return [record for path in paths for record in pq.read_table(path).to_pylist()]


def test_datasets_reads_the_folder_split_by_split(published, tmp_path):
    data = load_dataset(str(published), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 8, "test": 2}
    assert data["train"].features == FINECAP_FEATURES
    assert data["test"]["id"] == ["shop/00001-b-1.x", "shop/00001-b-3.x"]
    expected = np.asarray(Image.open(io.BytesIO(picture("00001-b-3"))))
    assert (np.asarray(data["test"][1]["image"]) == expected).all()


def test_files_are_numbered_within_their_split_and_whole_shards_are_links(packed, published):
    folder = published / "data"
    assert sorted(path.name for path in folder.iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
    ]
    assert (folder / "train-00000-of-00003.parquet").samefile(packed.output("pack", "00000-a"))
    for path in folder.iterdir():
        assert pq.read_schema(path).equals(COLUMNS)


def test_without_links_the_shards_are_copied(run, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", refuse)
    path = publish(run) / "data" / "train-00000-of-00003.parquet"
    assert path.read_bytes() == run.output("pack", "00000-a").read_bytes()


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_publishing_again_changes_no_byte_and_leaves_nothing_behind(run):
    first = everything(publish(run))
    assert everything(publish(run)) == first
    assert {path.name for path in run.store.out.iterdir()} == {"passes", "dataset"}


def test_files_of_an_older_dataset_do_not_stay(run):
    publish(run)
    fewer = Run(run.recipe, run.store, run.shards[:1])
    names = {path.name for path in (publish(fewer) / "data").iterdir()}
    assert names == {"train-00000-of-00001.parquet"}


def test_what_is_not_packed_is_not_published(run):
    run.output("pack", "00003-d").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 shards are not packed yet, the first is .*00003-d"):
        publish(run)


def test_who_comes_second_waits_and_takes_what_the_first_one_published(run, monkeypatch):
    other = run.store.out / "dataset"
    monkeypatch.setattr(publish_module, "WAIT_SECONDS", 0.05)
    writes = []
    plain = publish_module._write_dataset

    def watched(*arguments):
        writes.append(threading.current_thread().name)
        if len(writes) == 1:
            second.start()
            time.sleep(0.3)
        return plain(*arguments)

    monkeypatch.setattr(publish_module, "_write_dataset", watched)
    found = []
    second = threading.Thread(target=lambda: found.append(publish(run)), name="second")
    assert publish(run) == other
    second.join(timeout=60)
    assert found == [other]
    assert writes == ["MainThread"]


def test_a_full_disk_leaves_the_older_dataset_whole(run, monkeypatch):
    before = everything(publish(run))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish_module, "_split_file", full)
    with pytest.raises(StopRun, match="No space left"):
        publish(run)
    assert everything(run.store.out / "dataset") == before


def test_the_figures_are_those_that_counting_the_records_gives(published):
    records = records_of(published)
    stats = json.loads((published / "stats.json").read_text())
    regions = [region for record in records for region in record["regions"]]
    labels = Counter(region["label"] for region in regions if region["kind"] == "object")
    words = sorted(len(record["global_caption"].split()) for record in records)

    assert stats["splits"]["train"]["records"] == 8
    assert sum(split["regions"] for split in stats["splits"].values()) == len(regions)
    assert sum(split["local_captions"] for split in stats["splits"].values()) == sum(
        region["caption"] is not None for region in regions
    )
    assert stats["categories"]["head"] == dict(labels)
    assert stats["categories"]["different"] == len(labels)
    assert stats["licenses"] == {"CC-BY-4.0": 10}
    assert stats["captioners"] == {"m|1": 10}
    assert stats["checks"] == {"numbers": 10, "read back … of … lines": 10}
    assert stats["flags"] == {"dense: number … not in the OCR text": 10, "object … quote … not in it": 10}
    lengths = stats["distributions"]["global caption, words"]
    assert (lengths["min"], lengths["max"], lengths["mean"]) == (words[0], words[-1], round(sum(words) / 10, 3))
    aspect = stats["distributions"]["aspect, width / height"]
    assert aspect["bins"][0][:2] == [1, 2]


def test_more_files_than_a_process_may_open_are_counted(tmp_path):
    """In a process of its own, with 128 open files at most."""
    files = [tmp_path / f"{number:03}.parquet" for number in range(200)]
    record = {**dict.fromkeys(COLUMNS.names), "split": "train", "width": 4, "height": 3}
    for path in files:
        with record_writer(path) as writer:
            writer.write_table(pa.Table.from_pylist([record], COLUMNS))
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from finecap.engine.reporting.dataset_stats import dataset_stats\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
        "found = dataset_stats(sorted(Path(sys.argv[1]).glob('*.parquet')), Path(sys.argv[1], 'scratch'))\n"
        "print(sum(split['records'] for split in found['splits'].values()))\n"
    )
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert found.stdout.strip() == "200", found.stderr[-500:]


def test_every_image_is_in_the_figures_once(published):
    images = json.loads((published / "stats.json").read_text())["images"]
    assert (images["images"], images["records"]) == (14, 10)
    assert images["rejects"] == {"ingest": {"broken": 4}}


def test_quantiles_and_bins_are_those_of_the_values_one_by_one():
    values = np.random.default_rng(0).lognormal(3, 1, 5000).astype(int)
    figures = summarise_counts(sorted(Counter(values.tolist()).items()))
    for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert figures[name] == np.quantile(values, share, method="inverted_cdf")
    assert figures["mean"] == pytest.approx(values.mean(), abs=1e-3)
    assert sum(count for _, _, count in figures["bins"]) == 5000
    for start, stop, count in figures["bins"][:-1]:
        assert count == ((values >= start) & (values < stop)).sum()


def test_a_dataset_without_records_is_said_to_be_empty(tmp_path, monkeypatch):
    folder = publish(make_run(tmp_path / "run", monkeypatch, ["00002-c"]))
    assert list((folder / "data").iterdir()) == []
    assert "1 images came in; 0 became records" in (folder / "README.md").read_text()


def test_the_card_has_the_header_that_the_hub_reads(published):
    card = DatasetCard.load(published / "README.md")
    header = card.data.to_dict()
    assert header["license"] == "cc-by-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"] == [
        {"split": "test", "path": "data/test-*.parquet"},
        {"split": "train", "path": "data/train-*.parquet"},
    ]
    assert "object-detection" in header["task_categories"]
    assert "14 images came in; 10 became records" in card.text
    assert "| ingest | broken | 4 |" in card.text


def test_the_card_shows_no_markup_of_the_data_and_no_folder_of_the_machine(published):
    text = (published / "README.md").read_text()
    assert "script" in text
    assert "<script" not in text
    assert "m\\|1" in text
    assert "/models/" not in text
    for chart in re.findall(r"\]\((charts/[^)]+)\)", text):
        assert (published / chart).read_text().startswith("<svg")


def test_addresses_in_the_data_become_no_links_and_long_texts_are_cut():
    for address in ("https://x.org/a", "HTTP://x.org", "www.x.org", "ftp://x.org", "jane@x.org", "mailto:j@x.org"):
        shown = table_cell(f"see {address} there")
        assert not re.search(r"(https?|ftp)://|www\\?\.|\w@\w", shown, re.IGNORECASE), shown
        assert shown.replace("<!-- -->", "").replace("\\", "") == f"see {address} there"
    assert table_cell("plain text, 3:1 at w.x") == "plain text, 3:1 at w.x"
    assert len(table_cell("x" * 100_000)) == 200


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts = Counter(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_the_gallery_shows_data_as_text_and_asks_for_nothing_else(published):
    page = Page()
    page.feed((published / "gallery.html").read_text())
    assert page.tags["article"] == 10
    assert set(page.tags) & {"script", "img", "iframe", "link", "object"} == set()
    assert {name for name, _ in page.attributes if name.startswith("on")} == set()
    links = [value for name, value in page.attributes if name in ("href", "src")]
    assert len(links) == 10
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert sum(EVIL in text for text in page.texts) >= 10


def test_a_gallery_is_made_of_generated_records_too(tmp_path):
    record = {
        **dict.fromkeys(COLUMNS.names),
        "id": "easy/1",
        "image": {"bytes": picture("1"), "path": None},
        "width": WIDTH,
        "height": HEIGHT,
        "regions": [],
        "qa": [{"question": "What is <b>it</b>?", "answers": ["noise"], "kind": "vqa"}],
    }
    write_gallery(iter([record]), tmp_path / "page.html", "Records", "from & for nobody")
    page = (tmp_path / "page.html").read_text()
    assert "What is &lt;b&gt;it&lt;/b&gt;?" in page
    assert "from &amp; for nobody" in page


def test_the_gallery_shows_pictures_as_the_models_saw_them(tmp_path):
    content = io.BytesIO()
    Image.new("RGBA", (900, 600), (0, 0, 0, 0)).save(content, "PNG")
    record = {**dict.fromkeys(COLUMNS.names), "id": "clear", "image": {"bytes": content.getvalue()}}
    write_gallery([{**record, "width": 900, "height": 600}], tmp_path / "page.html", "Records", "")
    page = (tmp_path / "page.html").read_text()
    (shown,) = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', page)
    image = Image.open(io.BytesIO(base64.b64decode(shown)))
    assert image.size == (640, 427)
    assert image.getextrema() == ((255, 255),) * 3


def test_archives_are_what_webdataset_reads_and_hold_the_records(published):
    for path in sorted((published / "data").iterdir()):
        archive = published / "webdataset" / f"{path.stem}.tar"
        samples = list(webdataset.WebDataset(str(archive), shardshuffle=False))
        records = pq.read_table(path).to_pylist()
        assert len(samples) == len(records)
        for sample, record in zip(samples, records, strict=True):
            stored = record.pop("image")["bytes"]
            assert sample["jpg" if record["id"].endswith("1.x") else "png"] == stored
            assert json.loads(sample["json"]) == record


def test_archives_have_the_same_bytes_whenever_they_are_written(published, tmp_path):
    files = sorted((published / "data").iterdir())
    (first, *_), (again, *_) = export_webdataset(files, tmp_path / "1"), export_webdataset(files, tmp_path / "2")
    assert first.read_bytes() == again.read_bytes()
    with tarfile.open(first) as tar:
        assert {(member.mtime, member.uid, member.mode) for member in tar} == {(0, 0, 0o644)}


def many_records(changed=None, dropped=None):
    """Captions that no compression shrinks much, enough for several pages."""
    draw = random.Random(0)
    captions = [f"{draw.getrandbits(8000):x}" for _ in range(2000)]
    if changed is not None:
        captions[changed] = "a better caption"
    if dropped is not None:
        del captions[dropped]
    nothing = dict.fromkeys(COLUMNS.names)
    return pa.Table.from_pylist([{**nothing, "global_caption": caption} for caption in captions], COLUMNS)


def share_kept(before, after, block=256, samples=200):
    """Share of the blocks drawn from `before` that occur anywhere in `after`."""
    draw = random.Random(1)
    starts = [draw.randrange(len(before) - block) for _ in range(samples)]
    return sum(before[start : start + block] in after for start in starts) / samples


def test_a_changed_or_dropped_caption_leaves_most_of_a_file_as_it_was(tmp_path):
    def written(records, content_defined=True):
        with record_writer(tmp_path / "file", content_defined) as writer:
            writer.write_table(records)
        return (tmp_path / "file").read_bytes()

    dropped = many_records(dropped=1000)
    assert share_kept(written(many_records()), written(many_records(changed=1000))) > 0.85
    assert share_kept(written(many_records()), written(dropped)) > 0.85
    # Pages of so many rows each are all new behind a row that is gone.
    assert share_kept(written(many_records(), False), written(dropped, False)) < 0.65


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"}, "HF_HUB_OFFLINE is set"),
        ({"HF_HUB_OFFLINE": "0"}, "no token for the Hub"),
        ({"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:9"}, "the upload failed"),
    ],
)
def test_an_upload_that_cannot_work_says_why_and_never_names_the_token(published, tmp_path, environment, message):
    result = push_elsewhere(published, tmp_path, environment)
    assert message in result.stderr
    assert "ValueError" in result.stderr
    assert "hf_secret" not in result.stdout + result.stderr


def push_elsewhere(folder, home, environment):
    """`push` in a process of its own: the Hub's client reads its settings when it is imported."""
    code = "import pathlib\nfrom finecap.engine.reporting import publish\n"
    code += f"print(publish.push(pathlib.Path({str(folder)!r}), 'me/x'))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {**clean, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, timeout=60)


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that an upload of small files asks for."""

    def answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        files = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in self.server.files]
        self.answer(files if "/tree/" in self.path else {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path.endswith("/create"):
            self.server.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/x"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            self.take([json.loads(line) for line in body.splitlines()])
            url = f"http://{self.headers['Host']}/datasets/me/x/commit/{'0' * 40}"
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({})

    def take(self, operations):
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del self.server.files[value["path"]]

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.tokens, server.created = {}, set(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_upload_brings_every_file_and_removes_those_of_an_older_dataset(published, tmp_path, hub):
    old = {"data/train-00000-of-00007.parquet": b"old", "LICENSE": b"mine"}
    hub.files.update(old)
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    settings = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_ENDPOINT": endpoint}
    result = push_elsewhere(published, tmp_path, settings)
    assert result.stdout.strip() == f"{endpoint}/datasets/me/x", result.stderr
    assert hub.files == {**everything(published), "LICENSE": b"mine"}
    assert hub.tokens == {"Bearer hf_secret"}
    (created,) = hub.created
    assert created["type"] == "dataset"
    assert created.get("visibility") == "private" or created.get("private")
    assert "hf_secret" not in result.stdout + result.stderr


def test_only_a_dataset_is_uploaded(tmp_path):
    with pytest.raises(ValueError, match="no published dataset is here"):
        push(tmp_path, "me/x")
