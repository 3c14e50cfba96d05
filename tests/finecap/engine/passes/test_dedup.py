"""Duplicates: whatever the shards, what brute force finds is found, and different pictures stay."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ImageEnhance

from finecap.engine.passes import dedup
from finecap.engine.recipe import recipe_from
from finecap.engine.running.one_shard import Run, run_reduce, run_shard
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.shards.plan import plan_shards
from tests.support.photographs import PHOTOGRAPHS, photograph


def write_outputs(folder: Path, shards: list[list[dict]]) -> dict[str, list[Path]]:
    """Outputs of ingest and filter with the columns that dedup reads."""
    outputs = {"ingest": [], "filter": []}
    for number, rows in enumerate(shards):
        for name, columns in (
            ("ingest", ("key", "reject", "sha256", "phash")),
            ("filter", ("key", "reject", "branch")),
        ):
            path = folder / name / f"{number:05d}-x.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            types = {"phash": pa.binary(32)}
            schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
            own = [{**row, "reject": row.get("reject") if name == "ingest" else row.get("dropped")} for row in rows]
            pq.write_table(pa.Table.from_pylist(own, schema=schema), path)
            outputs[name].append(path)
    return outputs


def picture(key: str, phash: bytes, sha256: str | None = None, branch: str = "photo", **rejects: str) -> dict:
    return {"key": key, "sha256": sha256 or key, "phash": phash, "branch": branch, **rejects}


def found_in(folder: Path, shards: list[list[dict]], **options: object) -> dict[str, tuple[str, int | None]]:
    out = folder / "dedup" / "reduced.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    dedup.reduce(write_outputs(folder, shards), dedup.Options(**options), out)
    assert [path.name for path in out.parent.iterdir()] == ["reduced.parquet"]  # nothing is left behind
    return {row["key"]: (row["of"], row["distance"]) for row in pq.read_table(out).to_pylist()}


def flipped(phash: bytes, bits: int, rng: np.random.Generator) -> bytes:
    values = np.unpackbits(np.frombuffer(phash, np.uint8))
    values[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(values).tobytes()


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def test_what_any_pass_of_reduces_rejected_is_nobodys_original(tmp_path):
    same = bytes(32)
    outputs = write_outputs(tmp_path, [[picture("a", same, "s"), picture("b", same, "s"), picture("c", same, "s")]])
    added = tmp_path / "added" / "00000-x.parquet"
    added.parent.mkdir()
    pq.write_table(pa.table({"key": ["a", "b", "c"], "reject": ["watermark: x", None, None]}), added)
    for more, originals in (({}, {"b": "a", "c": "a"}), ({"added": [added]}, {"c": "b"})):
        dedup.reduce(outputs | more, dedup.Options(), tmp_path / "out.parquet")
        found = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert {row["key"]: row["of"] for row in found} == originals


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), bands=st.sampled_from([4, 8, 16, 32]), documents=st.sampled_from(["exact", "near"]))
def test_what_brute_force_finds_is_found_and_nothing_else(tmp_path_factory, seed, bands, documents):
    rng = np.random.default_rng(seed)
    limit = int(rng.integers(0, bands))
    rows, hashes = [], [rng.bytes(32) for _ in range(20)]
    for number in range(120):
        near = flipped(hashes[rng.integers(20)], int(rng.integers(0, limit + 3)), rng)
        branch = "document" if rng.random() < 0.2 else "photo"
        rejects = {"dropped": "blurred: x"} if rng.random() < 0.1 else {}
        rows.append(picture(f"k{number}", near, f"s{rng.integers(100)}", branch, **rejects))

    expected, alive = set(), [row for row in rows if "dropped" not in row]
    for index, row in enumerate(alive):
        before = alive[:index]
        equal = any(other["sha256"] == row["sha256"] for other in before)
        firsts = [one for at, one in enumerate(before) if all(one["sha256"] != two["sha256"] for two in before[:at])]
        near = any(
            distance(row["phash"], other["phash"]) <= limit
            and (documents == "near" or row["branch"] == other["branch"] == "photo")
            for other in firsts
        )
        if equal or (near and (documents == "near" or row["branch"] == "photo")):
            expected.add(row["key"])

    shards = [rows[:50], rows[50:51], [], rows[51:]]
    got = found_in(tmp_path_factory.mktemp("dedup"), shards, max_distance=limit, bands=bands, documents=documents)
    assert set(got) == expected
    order = {row["key"]: number for number, row in enumerate(rows)}
    assert all(order[of] < order[key] for key, (of, _) in got.items())


def test_rejected_pictures_neither_shadow_others_nor_are_listed(tmp_path):
    rng = np.random.default_rng(0)
    phash = rng.bytes(32)
    shards = [
        [picture("broken", phash, "s", reject="corrupt: x"), picture("blurred", phash, "s", dropped="blurred: x")],
        [picture("first", phash, "s"), picture("second", phash, "s")],
    ]
    assert found_in(tmp_path, shards) == {"second": ("first", None)}


def test_documents_that_look_alike_stay_unless_their_files_are_equal(tmp_path):
    phash = np.random.default_rng(0).bytes(32)
    pages = [picture("p1", phash, "a", "document"), picture("p2", phash, "b", "document")]
    again = [picture("p3", phash, "a", "document")]
    assert found_in(tmp_path / "exact", [pages, again]) == {"p3": ("p1", None)}
    assert set(found_in(tmp_path / "near", [pages, again], documents="near")) == {"p2", "p3"}


def test_full_buckets_are_counted_and_bounded(tmp_path):
    """All share the first band; with a small bucket only the first of it is compared, through any band."""
    rng = np.random.default_rng(0)
    rows = [picture(f"k{number}", b"\0\0" + rng.bytes(30)) for number in range(500)]
    twin = picture("twin", flipped(rows[400]["phash"], 3, rng))
    assert found_in(tmp_path, [[*rows, twin]], max_bucket=10) == {"twin": ("k400", 3)}
    figures = json.loads(pq.read_metadata(tmp_path / "dedup" / "reduced.parquet").metadata[b"dedup"])
    assert figures == {"pictures": 501, "exact": 0, "near": 1, "full_buckets": 1, "in_full_buckets": 501}


def test_too_few_bands_are_refused():
    with pytest.raises(ValueError, match="needs more than 16 bands"):
        recipe_from({"ingest": {"source": "s", "license": "l"}, "dedup": {"max_distance": 16, "bands": 16}})


def test_too_little_memory_ends_the_run_with_advice(tmp_path):
    rng = np.random.default_rng(0)
    rows = [picture(f"k{number}", rng.bytes(32)) for number in range(2000)]
    with pytest.raises(StopRun, match=r"dedup\.memory"):
        found_in(tmp_path, [rows], memory="1MB")


def test_copies_of_photographs_are_dropped_across_shards_and_different_photographs_stay(tmp_path):
    """Through ingest, filter, reduce and the pass itself, from files to rejects."""
    source = tmp_path / "in"
    source.mkdir()
    for name in PHOTOGRAPHS:
        picture = photograph(name)
        stem = Path(name).stem
        picture.save(source / f"1-{stem}.png")
        picture.save(source / f"2-{stem}.jpg", quality=60)
        picture.resize((picture.width // 2, picture.height // 2)).save(source / f"3-{stem}.jpg", quality=90)
        ImageEnhance.Brightness(picture).enhance(1.05).save(source / f"4-{stem}.webp", quality=90)
    shutil.copy(source / "1-coffee.png", source / "5-coffee.png")
    recipe = recipe_from({"ingest": {"source": "s", "license": "l"}, "filter": {"min_short_side": 100}})
    run = Run(recipe, Store(tmp_path / "out"), tuple(plan_shards(source, 4)))
    for name in ("ingest", "filter"):
        for shard in run.shards:
            run_shard(run, name, shard, {})
    run_reduce(run, "dedup")
    verdicts = {}
    for shard in run.shards:
        run_shard(run, "dedup", shard, {})
        verdicts |= {row["key"]: row for row in pq.read_table(run.output("dedup", shard.name)).to_pylist()}

    kept = [key for key, row in verdicts.items() if row["reject"] is None]
    assert kept == sorted(f"1-{Path(name).stem}.png" for name in PHOTOGRAPHS)
    assert verdicts["5-coffee.png"]["reject"] == "exact duplicate: of 1-coffee.png"
    for key in verdicts.keys() - kept:
        original = f"1-{key[2:].split('.')[0]}.png"
        assert verdicts[key]["duplicate_of"] == original
        assert verdicts[key]["reject"].startswith(("near duplicate: of ", "exact duplicate: of ")), key
