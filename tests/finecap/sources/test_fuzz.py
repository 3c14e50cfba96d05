"""Odd rows through every format: each comes out once, as a row or with its reason, and nothing raises.

    FINEVIT_FUZZ_CASES=20000 FINEVIT_FUZZ_SEED=7 pytest tests/finecap/sources/test_fuzz.py

With the same seed and number the rows are the same; both are printed when a test fails.
"""

import csv
import io
import json
import os
import random
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap.records import Record
from finecap.sources import meaning
from finecap.sources.rows import BadRow, Row
from tests.support.odd_rows import odd_picture, odd_text
from tests.support.sources import everything, picture

CASES = int(os.environ.get("FINEVIT_FUZZ_CASES", "600"))
SEED = int(os.environ.get("FINEVIT_FUZZ_SEED", "20261124"))
PATHS = ["good.png", "sub/good.png", "../x", "/etc/passwd", "https://x/y.png", "s3://a/b", "", ".", "sub"]
PATHS += ["\0", "\ud800.png", "a" * 5000]
KEYS = [
    "role",
    "content",
    "type",
    "text",
    "from",
    "value",
    "user",
    "assistant",
    "bytes",
    "path",
    "bbox",
    "label",
    "kind",
]


def odd_value(source, depth=0):
    """Anything that JSON can say."""
    draw = source.random()
    if depth > 3 or draw < 0.5:
        return source.choice([None, True, 0, -1, 7, 1e300, float("nan"), "", odd_text(source)[:300], *PATHS])
    if draw < 0.75:
        return [odd_value(source, depth + 1) for _ in range(source.randrange(4))]
    return {source.choice(KEYS): odd_value(source, depth + 1) for _ in range(source.randrange(4))}


def mostly(source, value):
    return value if source.random() < 0.85 else odd_value(source)


def odd_turns(source, form):
    turns = []
    for number in range(source.choice([0, 1, 2, 2, 2, 3, 4])):
        words = source.choice(["<image>\nWhat?", "<image> and <image>", "Why?", odd_text(source)[:200]])
        if form == "texts":
            turns.append({"user": mostly(source, words), "assistant": mostly(source, "Yes.")})
        elif form == "conversations":
            turns.append({"from": mostly(source, ("human", "gpt")[number % 2]), "value": mostly(source, words)})
        else:
            pieces = [{"type": "image"}, {"type": "text", "text": words}][number % 2 :]
            content = mostly(source, source.choice([words, pieces]))
            turns.append({"role": mostly(source, ("user", "assistant")[number % 2]), "content": content})
    return [mostly(source, turn) for turn in turns]


def odd_rows(source, form):
    """Rows of JSON for a form of data."""
    for _ in range(CASES):
        image = source.choice(["good.png", "sub/good.png", *PATHS])
        if form == "captions":
            yield {
                "image": mostly(source, image),
                "caption": mostly(source, odd_text(source)),
                "width": odd_value(source),
            }
        elif form == "finecap":
            row = {name: mostly(source, "x") for name in Record.__annotations__}
            regions = [{"bbox": [0, 0, 1, 1], "kind": "object", "label": "a", "caption": mostly(source, "b")}]
            qa = [{"question": mostly(source, "Q"), "answers": ["A"], "kind": mostly(source, "doc")}]
            size = {name: mostly(source, 5) for name in ("width", "height")}
            rest = {name: mostly(source, None) for name in ("global_caption", "captioner", "provenance")}
            lists = {"regions": mostly(source, regions), "qa": mostly(source, qa), "captions": mostly(source, [])}
            yield {**row, **size, **rest, **lists, "id": f"{source.random()}", "image": "good.png"}
        else:
            yield {
                "images": mostly(source, source.choice([[], [image], [image, "good.png"]])),
                form: odd_turns(source, form),
            }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "good.png").write_bytes(picture(1))
    (tmp_path / "sub" / "good.png").write_bytes(picture(2))
    print(f"FINEVIT_FUZZ_CASES={CASES} FINEVIT_FUZZ_SEED={SEED}")
    return tmp_path


def judged(spec, count):
    """Every row once; those that are good fit together with their pictures, and can be written as UTF-8."""
    _, rows, pictures = everything(spec)
    assert len(rows) == count
    for row, found in zip(rows, pictures, strict=True):
        json.dumps([row.id, row.reason] if isinstance(row, BadRow) else [row.id, row.messages, row.record]).encode()
        if isinstance(row, Row):
            assert (row.record is None) != (row.messages is None)
            # Where columns tell sizes, nobody has looked at the pictures yet.
            assert isinstance(found, BadRow) or len(found) == len(row.sizes)
            assert isinstance(found, BadRow) or all(isinstance(data, bytes) and data for data in found)
            assert all(min(size) > 0 for size in row.sizes)
        else:
            assert ": " in row.reason
            assert len(row.reason) < 500
    good = [row for row in rows if isinstance(row, Row)]
    assert len(good) > count / 50  # or little of this would say anything
    assert len(good) < count
    return rows


@pytest.mark.parametrize("form", ["captions", "finecap", "messages", "texts", "conversations"])
@pytest.mark.parametrize("container", ["jsonl", "json"])
def test_odd_json(folder, form, container):
    rows = list(odd_rows(random.Random(f"{SEED}/{form}"), form))
    if container == "json":
        (folder / "rows.json").write_text(json.dumps(rows))
        judged(str(folder / "rows.json"), CASES)
        return
    lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows]
    source, broken = random.Random(SEED), [*lines[:1]]
    for line in lines[1:]:
        draw = source.random()
        if draw < 0.05:
            line = line[: source.randrange(1, len(line))] or b"{"
        elif draw < 0.1:
            line = source.choice([b"null", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"NaN"])
        broken.append(line)
    (folder / "rows.jsonl").write_bytes(b"\n\n".join(broken))
    judged(str(folder / "rows.jsonl"), CASES)


def test_odd_csv(folder):
    source = random.Random(SEED)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "width", "height"])
        for _ in range(CASES):
            row = [source.choice(["good.png", *PATHS]), odd_text(source)[:50_000], source.choice(["", "7", "x"]), ""]
            writer.writerow(row if source.random() < 0.9 else row[: source.randrange(1, 4)])
    judged(str(folder / "rows.csv"), CASES)


def test_odd_csv_that_no_csv_writer_wrote(folder):
    source = random.Random(SEED)
    lines = ["image,caption"]
    for _ in range(CASES):
        lines.append(f"good.png,{odd_text(source)[:300]}".replace("\n", source.choice(["\n", "\r", '"'])))
    (folder / "rows.csv").write_bytes("\n".join(lines).encode("utf-8", "replace"))
    rows = everything(str(folder / "rows.csv"))[1]
    assert len(rows) > CASES / 2
    assert all(isinstance(row, Row) or ": " in row.reason for row in rows)


def test_odd_parquet(folder):
    source = random.Random(SEED)

    def text():
        return source.choice([None, "", odd_text(source).encode("utf-8", "replace").decode()])

    def size():
        return source.choice([None, 0, -5, 7, 2**31 - 1])

    rows = [{"image": odd_picture(source), "caption": text(), "width": size(), "height": size()} for _ in range(CASES)]
    types = {"image": pa.binary(), "caption": pa.string(), "width": pa.int32(), "height": pa.int32()}
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(types)), folder / "rows.parquet", row_group_size=50)
    judged(str(folder / "rows.parquet"), CASES)


FLIPPED = """
import random, sys
from pathlib import Path
from finecap.sources.door import open_source

whole, source, path, opened = Path(sys.argv[1]).read_bytes(), random.Random(sys.argv[2]), Path(sys.argv[1]), 0
for _ in range(int(sys.argv[3])):
    data = bytearray(whole)
    for _ in range(source.choice([1, 3, 20])):
        data[source.randrange(4, len(data) - 8)] = source.randrange(256)
    path.write_bytes(data)
    try:
        found = open_source(path)
    except ValueError:
        continue
    opened += 1
    for part in found.parts:
        assert len(found.read_rows(part)) == len(found.read_pictures(part, range(part.rows))) == part.rows
print(opened)
"""


def test_corrupt_parquet_of_any_kind_costs_its_rows(nano_corpus, folder):
    """In a process of its own, which corrupt statistics in a footer once ended."""
    table = pq.read_table(nano_corpus / "data").slice(0, 12)
    pq.write_table(table, folder / "rows.parquet", row_group_size=4)
    command = [sys.executable, "-c", FLIPPED, str(folder / "rows.parquet"), str(SEED), str(CASES // 4)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert CASES / 20 < int(done.stdout) < CASES / 4


def test_odd_archives(folder):
    source = random.Random(SEED)
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for number in range(CASES):
            said = json.dumps({"caption": odd_value(source), "width": odd_value(source), "height": odd_value(source)})
            members = {
                "png": odd_picture(source) or b"",
                "json": said.encode() if source.random() < 0.9 else b"{",
                "txt": odd_text(source).encode("utf-8", "surrogatepass"),
            }
            for name in source.sample(list(members), source.choice([1, 2, 3, 3, 3])):
                info = tarfile.TarInfo(f"{number:05d}.{name}")
                info.size = len(members[name])
                tar.addfile(info, io.BytesIO(members[name]))
    judged(str(folder / "rows.tar"), CASES)


def test_a_bug_that_a_few_rows_meet_would_be_seen(folder, monkeypatch):
    def limited(value):
        assert not (isinstance(value, str) and len(value) % 8 == 3)
        return clean(value)

    clean = meaning.clean
    monkeypatch.setattr(meaning, "clean", limited)
    (folder / "rows.json").write_text(json.dumps(list(odd_rows(random.Random(SEED), "captions"))))
    with pytest.raises(AssertionError):
        everything(str(folder / "rows.json"))
