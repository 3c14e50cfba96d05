"""Class-balanced sampling: exact counts, whole tails, capped heads, one sample however the collection is cut."""

import math
import random
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.engine.contract import Settings
from finecap.engine.draws import uniform
from finecap.engine.passes import balance, boxes
from finecap.engine.passes.balance import Options
from tests.support import balance_million

SCHEMA = pa.schema([("key", pa.string()), ("reject", pa.string()), *boxes.COLUMNS])
OPTIONS = Options(cap=600, whole_below=100)


def zipf_rows(images=3000, seed=0):
    """Rows of the boxes pass whose labels follow Zipf's law: a few classes have most of the boxes."""
    draw = random.Random(seed)
    labels = [f"class {rank}" for rank in range(1, 201)]
    weights = [1 / rank for rank in range(1, 201)]
    rows = []
    for number in range(images):
        found = draw.choices(labels, weights, k=draw.randrange(8))
        objects = [{"bbox": [0.0, 0.0, 9.0, 9.0], "label": label, "phrase": label, "score": 0.5} for label in found]
        rows.append({"key": f"image {number}", "reject": None, "objects": objects})
    return rows


def write_shards(folder, rows, shards):
    folder.mkdir()
    paths = []
    for number in range(shards):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(pa.Table.from_pylist(rows[number::shards], schema=SCHEMA), paths[-1])
    return paths


def sample(folder, rows, shards, options=OPTIONS, seed=0):
    """Counts by label over all shards, and the kept objects of each image."""
    paths = write_shards(folder, rows, shards)
    balance.reduce({"boxes": paths}, options, folder / "reduced")
    kept, counters = {}, Counter()
    for path in reversed(paths):
        settings = Settings(seed=seed)
        context = SimpleNamespace(
            settings=settings, reduced=folder / "reduced", counters=counters, load=lambda name, build: build()
        )
        live = (row for row in pq.read_table(path).to_pylist() if row["reject"] is None)
        for result in balance.run(live, options, context):
            kept[result["key"]] = result["kept_objects"]
    return pq.read_table(folder / "reduced").to_pylist(), kept, counters


def labels_of(rows, kept):
    return Counter(row["objects"][number]["label"] for row in rows for number in kept[row["key"]])


def test_counts_are_exact_and_leave_rejected_rows_out(tmp_path):
    rows = zipf_rows(500)
    for row in rows[::7]:
        row["reject"] = "detector failed: x"
    rows[3]["objects"] = None
    reduced, _, _ = sample(tmp_path / "a", rows, 5)
    expected = Counter(item["label"] for row in rows if row["reject"] is None for item in row["objects"] or [])
    assert {row["label"]: row["count"] for row in reduced} == expected
    assert [row["label"] for row in reduced] == sorted(expected)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"reduced", *(f"{n}.parquet" for n in range(5))}


def test_tails_stay_whole_and_heads_are_capped(tmp_path):
    rows = zipf_rows()
    reduced, kept, counters = sample(tmp_path / "a", rows, 3)
    left = labels_of(rows, kept)
    heads = [row for row in reduced if row["count"] > OPTIONS.cap]
    assert len(heads) >= 2
    for row in reduced:
        if row["count"] <= OPTIONS.cap:
            assert left[row["label"]] == row["count"]
    for row in heads:
        rate = OPTIONS.cap / row["count"]
        assert row["keep_rate"] == pytest.approx(rate)
        spread = math.sqrt(row["count"] * rate * (1 - rate))
        assert abs(left[row["label"]] - OPTIONS.cap) < 4 * spread
    assert counters["objects kept"] == left.total()
    assert counters["objects kept"] + counters["objects dropped"] == sum(row["count"] for row in reduced)


def test_a_class_below_the_limit_is_whole_even_above_the_cap(tmp_path):
    rows = zipf_rows(300)
    reduced, kept, _ = sample(tmp_path / "a", rows, 1, Options(cap=2, whole_below=50))
    for row in reduced:
        assert (row["keep_rate"] == 1) == (row["count"] < 50 or row["count"] <= 2)
        if row["count"] < 50:
            assert labels_of(rows, kept)[row["label"]] == row["count"]


def test_the_sample_does_not_depend_on_the_shards_but_on_the_seed(tmp_path):
    rows = zipf_rows()
    samples = [sample(tmp_path / str(shards), rows, shards)[1] for shards in (1, 7)]
    assert samples[0] == samples[1]
    assert samples[0] != sample(tmp_path / "other", rows, 1, seed=1)[1]


def test_the_classes_become_flatter(tmp_path):
    def entropy(counts):
        return -sum(count / counts.total() * math.log(count / counts.total()) for count in counts.values())

    rows = zipf_rows()
    _, kept, _ = sample(tmp_path / "a", rows, 2)
    before = Counter(item["label"] for row in rows for item in row["objects"])
    after = labels_of(rows, kept)
    assert set(after) == set(before)
    assert entropy(after) > entropy(before) + 0.2
    _, everything, _ = sample(tmp_path / "b", rows, 2, Options(cap=10**6))
    assert labels_of(rows, everything) == before


def test_the_pass_does_not_run_uncounted():
    context = SimpleNamespace(reduced=None, load=lambda name, build: build())
    with pytest.raises(RuntimeError, match="counted"):
        next(iter(balance.run(iter([]), OPTIONS, context)))


@given(st.integers(), st.lists(st.text() | st.integers(), min_size=1, max_size=3))
def test_a_draw_is_in_range_and_fixed(seed, names):
    assert 0 <= uniform(seed, *names) == uniform(seed, *names) < 1


def test_draws_are_uniform():
    draws = sorted(uniform(0, "x", number) for number in range(20_000))
    # Kolmogorov-Smirnov: 1.95/sqrt(n) is exceeded by one fair sample in a thousand.
    assert max(abs(draw - rank / 20_000) for rank, draw in enumerate(draws)) < 1.95 / math.sqrt(20_000)


@pytest.mark.slow
def test_a_million_boxes_are_counted_in_bounded_memory(tmp_path):
    paths = balance_million.write_million(tmp_path, shards=20)
    script = balance_million.__file__
    small = subprocess.run([sys.executable, script, *paths[:1]], capture_output=True, text=True, check=True)
    large = subprocess.run([sys.executable, script, *paths], capture_output=True, text=True, check=True)
    few, many = (
        dict(zip(("boxes", "seconds", "mib"), map(float, run.stdout.split()), strict=True)) for run in (small, large)
    )
    assert (few["boxes"], many["boxes"]) == (50_000, 1_000_000)
    assert many["mib"] < few["mib"] + 256


def test_what_a_killed_count_spilled_is_removed_by_the_next(tmp_path):
    (tmp_path / ".balance-spill").mkdir()
    (tmp_path / ".balance-spill" / "duckdb_temp_block-1.block").write_bytes(b"half")
    boxes = tmp_path / "boxes.parquet"
    pq.write_table(pa.table({"objects": [[{"label": "dog"}]], "reject": pa.nulls(1, pa.string())}), boxes)
    balance.reduce({"boxes": [boxes]}, balance.Options(), tmp_path / "reduced.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.parquet", "reduced.parquet"]
