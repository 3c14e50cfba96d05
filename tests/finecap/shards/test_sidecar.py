"""Metadata files beside pictures: what each row says, and a bad row named with its file and line."""

import json
import os
from pathlib import Path

import pytest

from finecap.shards import sidecar
from finecap.shards.plan import plan_shards, read_shard


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "."}', "is no file"),
        ('{"file_name": "sub/.."}', "is no file"),
        ('{"file_name": "a\\u0000.jpg"}', "is no file"),
        ('{"file_name": "a\\ud800.jpg"}', "is not UTF-8"),
        ('{"file_name": 3}', "no 'file_name'"),
        ('["a.jpg"]', "no 'file_name'"),
        ('{"license": "cc0"}', "no 'file_name'"),
        ('{"file_name": "../a.jpg"}', "leads out of the folder"),
        ("[" * 200_000, "cannot be read"),
        ('{"file_name": "a.jpg", "n": ' + "9" * 5000 + "}", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_line(folder, line, reason):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=reason) as raised:
        plan_shards(folder, 10)
    assert str(folder / "metadata.jsonl") in str(raised.value)
    assert "line 2" in str(raised.value)


def test_names_that_the_file_system_refuses_cost_their_row_alone(folder):
    (folder / "loop.jpg").symlink_to("loop.jpg")
    names = ["a.jpg", "x" * 300 + ".jpg", "loop.jpg", "a.jpg/below.jpg"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    rows = {row["key"]: row["problem"] for shard in plan_shards(folder, 10) for row in read_shard(shard)}
    assert rows.pop("a.jpg") is None
    assert rows.pop("sub/b.jpg") is None
    assert sorted(rows) == sorted(names[1:])
    assert all(problem.startswith("unreadable: ") for problem in rows.values())


def test_the_nearest_file_wins_wherever_it_is_and_jsonl_comes_before_csv(folder):
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "sub/b.jpg", "license": "far", "source": "far"}\n{"file_name": "a.jpg", "license": "mit"}\n'
    )
    (folder / "metadata.csv").write_text("file_name,license\na.jpg,cc0\n")
    (folder / "sub" / "metadata.csv").write_text("file_name,license\nb.jpg,near\n")
    said, digest = sidecar.read(folder, below=True)
    assert said == {"a.jpg": {"license": "cc0"}, "sub/b.jpg": {"license": "near"}}
    assert sidecar.read(folder, below=False)[0] == {
        "a.jpg": {"license": "cc0"},
        "sub/b.jpg": {"license": "far", "source": "far"},
    }
    (folder / "sub" / "metadata.csv").write_text("file_name,license\nb.jpg,new\n")
    assert sidecar.read(folder, below=True)[1] != digest


def test_shards_carry_what_metadata_said_and_do_not_read_it_again(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "license": "cc0"}\n')
    shards = plan_shards(folder, 1)
    os.unlink(folder / "metadata.jsonl")
    licenses = [row["license"] for shard in shards for row in read_shard(shard)]
    assert licenses == ["cc0", None]
