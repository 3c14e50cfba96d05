"""Pass 3: drop exact and near duplicates over the whole collection; the first in the order of the shards is kept.

Near duplicates are found by bands: two perceptual hashes that differ in at most `max_distance` bits agree in at least
one of `bands` > `max_distance` equal pieces, so comparing those that share a piece finds every pair. Chance meetings
cost time: with n pictures, a band of b bits makes n² / 2^(b+1) comparisons. The default of 16 bands (16 bits each) is
for up to some ten million pictures; for more take 8 bands with `max_distance` 7, which makes a billion comparisons for
a billion pictures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.passes.ingest import HASH_SIDE
from finecap.errors import StopRun

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COLUMNS = pa.schema([("duplicate_of", pa.string())])  # key of the picture that is kept
HASH_BITS = HASH_SIDE * HASH_SIDE


INSERT_ROWS = 100_000
ROW_GROUP = 10_000  # of the reduced file; a worker reads those that hold rows of its shard
SHARD_BITS = 32  # a picture's number is shard << 32 | row


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What counts as a duplicate.

    Attributes:
        max_distance: most bits, of the 256 of a perceptual hash, in which near duplicates differ.
        bands: pieces of a hash; more than `max_distance`.
        documents: "exact" compares them by their bytes alone, because two filled-in copies of one form are two
            documents: of 40 pages of the embedded corpus in which two words changed places, 33 stayed within 15 bits.
            "near" treats them as photographs.
        max_bucket: if more than `max_bucket` distinct hashes share a band, each is compared only with the first
            `max_bucket` of them. Some near duplicates may then be missed; the output file counts such bands.
        memory: what DuckDB may use; it goes on in a folder beside its output.
    """

    max_distance: int = Field(default=15, ge=0)
    bands: Literal[4, 8, 16, 32] = 16
    documents: Literal["exact", "near"] = "exact"
    max_bucket: int = Field(default=200, ge=1)
    memory: str = "2GB"

    @model_validator(mode="after")
    def _more_bands_than_bits(self) -> Options:
        if self.max_distance >= self.bands:
            raise ValueError(
                f"max_distance {self.max_distance} needs more than {self.max_distance} bands, or near duplicates are "
                f"missed; there are {self.bands}"
            )
        return self


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """Rejects what `reduce` found in this shard."""
    assert context.reduced is not None
    found = pq.read_table(context.reduced, filters=[("shard", "==", context.shard)])
    duplicates = {row["key"]: row for row in found.to_pylist()}
    for row in rows:
        hit = duplicates.get(row["key"])
        if hit is None:
            yield {"key": row["key"]}
            continue
        kind = "exact duplicate" if hit["distance"] is None else "near duplicate"
        bits = "" if hit["distance"] is None else f", {hit['distance']} of {HASH_BITS} bits differ"
        yield {**row, "duplicate_of": hit["of"], "reject": f"{kind}: of {hit['of']}{bits}"}


def reduce(outputs: dict[str, list[Path]], options: Options, out: Path) -> None:
    """Write the duplicates of the collection: `shard`, `key`, `of` (key of the first near or equal picture before it,
    which may itself be the duplicate of a third) and `distance` in bits (null for equal files), in order.

    The metadata of the file has the figures under "dedup": pictures, exact, near, full_buckets, in_full_buckets.

    Args:
        outputs: files of "ingest" and "filter" in the order of the shards; rows that either rejected take no part.

    Raises:
        StopRun: memory or disk space ran out.
    """
    import duckdb

    workshop = out.parent / ".dedup"
    shutil.rmtree(workshop, ignore_errors=True)  # of a run that was killed
    workshop.mkdir()
    try:
        with duckdb.connect(str(workshop / "pictures.duckdb")) as database:
            database.execute(f"SET memory_limit = '{options.memory}'; SET preserve_insertion_order = false")
            database.execute(f"SET temp_directory = '{_quoted(workshop / 'spill')}'")
            _fill(database, outputs)
            _find_equal(database)
            _find_alike(database, options)
            _write(database, out)
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise StopRun(
            f"{out.parent}: duplicates could not be searched for ({error}). Make room, or give DuckDB more memory "
            "(dedup.memory in the recipe), then run the same command again."
        ) from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _fill(database: DuckDBPyConnection, outputs: dict[str, list[Path]]) -> None:
    """Tables `shards` and `pictures`: a number in the order of the collection, sha256, the four words of the
    perceptual hash, and whether it is a document.
    """
    database.execute("CREATE TABLE shards (shard BIGINT, name VARCHAR)")
    database.execute(
        "CREATE TABLE pictures (number BIGINT, key VARCHAR, sha256 VARCHAR, document BOOLEAN, "
        "w0 UBIGINT, w1 UBIGINT, w2 UBIGINT, w3 UBIGINT)"
    )
    waiting: list[pa.Table] = []
    for shard, ingested in enumerate(outputs["ingest"]):
        database.execute("INSERT INTO shards VALUES (?, ?)", [shard, ingested.stem])
        waiting.append(_pictures(shard, {name: paths[shard] for name, paths in outputs.items()}))
        if sum(table.num_rows for table in waiting) >= INSERT_ROWS:
            _insert(database, waiting)
    _insert(database, waiting)


def _insert(database: DuckDBPyConnection, waiting: list[pa.Table]) -> None:
    if waiting:
        database.register("waiting", pa.concat_tables(waiting))
        database.execute("INSERT INTO pictures SELECT * FROM waiting")
        database.unregister("waiting")
        waiting.clear()


def _pictures(shard: int, outputs: dict[str, Path]) -> pa.Table:
    """The pictures of a shard that none of the passes rejected."""
    rejects = [pq.read_table(path, columns=["reject"])["reject"].is_null().to_numpy() for path in outputs.values()]
    table = pq.read_table(outputs["ingest"], columns=["key", "sha256", "phash"])
    branches = pq.read_table(outputs["filter"], columns=["branch"])["branch"]
    numbers = pa.array(np.arange(table.num_rows, dtype=np.int64) + (shard << SHARD_BITS))
    table = table.append_column("number", numbers).append_column("branch", branches)
    table = table.filter(pa.array(np.logical_and.reduce(rejects)))
    hashes = b"".join(table["phash"].to_pylist())
    words = np.frombuffer(hashes, dtype=">u8").astype(np.uint64).reshape(-1, 4)
    columns = {
        "number": table["number"],
        "key": table["key"],
        "sha256": table["sha256"],
        "document": pa.array([branch == "document" for branch in table["branch"].to_pylist()], pa.bool_()),
    }
    return pa.table(columns | {f"w{word}": words[:, word] for word in range(4)})


def _find_equal(database: DuckDBPyConnection) -> None:
    """Table `found`: number of a duplicate, of which, and the distance (null for equal files)."""
    database.execute("CREATE TABLE found (number BIGINT, other BIGINT, distance INTEGER)")
    database.execute(
        "INSERT INTO found SELECT number, first, NULL FROM pictures JOIN "
        "(SELECT sha256, min(number) AS first FROM pictures GROUP BY sha256 HAVING count(*) > 1) USING (sha256) "
        "WHERE number > first"
    )


def _find_alike(database: DuckDBPyConnection, options: Options) -> None:
    """Adds near duplicates to `found`; equal hashes first, so that bands hold different ones only."""
    wanted = "true" if options.documents == "near" else "NOT document"
    database.execute(
        "CREATE TABLE hashes AS SELECT min(number) AS number, w0, w1, w2, w3 FROM pictures "
        f"WHERE {wanted} AND number NOT IN (SELECT number FROM found) GROUP BY w0, w1, w2, w3"
    )
    database.execute(
        "INSERT INTO found SELECT p.number, h.number, 0 FROM pictures p JOIN hashes h USING (w0, w1, w2, w3) "
        f"WHERE p.number > h.number AND {wanted} AND p.number NOT IN (SELECT number FROM found)"
    )
    database.execute("CREATE TABLE alike (number BIGINT, other BIGINT, distance INTEGER)")
    database.execute("CREATE TABLE full_buckets (size BIGINT)")
    for band in range(options.bands):
        _compare_band(database, _piece(band, HASH_BITS // options.bands), options)
    database.execute(
        "INSERT INTO found SELECT number, min(other), arg_min(distance, other) FROM alike GROUP BY number"
    )


def _piece(band: int, bits: int) -> str:
    """SQL for the bits of one band."""
    word, shift = divmod(band * bits, 64)
    return f"((w{word} >> {64 - bits - shift}) & {2**bits - 1})" if bits < 64 else f"w{word}"


def _compare_band(database: DuckDBPyConnection, piece: str, options: Options) -> None:
    """Adds to `alike` the earlier neighbours of each hash among those that share its band."""
    database.execute(
        f"CREATE OR REPLACE TEMP TABLE buckets AS SELECT {piece} AS piece, count(*) AS size, NULL::BIGINT AS last "
        "FROM hashes GROUP BY piece HAVING count(*) > 1"
    )
    full = f"size > {options.max_bucket}"
    database.execute(f"INSERT INTO full_buckets SELECT size FROM buckets WHERE {full}")
    database.execute(
        f"UPDATE buckets SET last = over_full.last FROM (SELECT buckets.piece AS piece, list_max(min(number, "
        f"{options.max_bucket})) AS last FROM hashes JOIN buckets ON {piece} = buckets.piece WHERE {full} "
        "GROUP BY buckets.piece) over_full WHERE buckets.piece = over_full.piece"
    )
    distance = " + ".join(f"bit_count(xor(a.w{word}, b.w{word}))::INTEGER" for word in range(4))
    database.execute(
        f"INSERT INTO alike SELECT number, min(other), arg_min(distance, other) FROM ("
        f"SELECT b.number AS number, a.number AS other, {distance} AS distance FROM "
        f"(SELECT {piece} AS piece, * FROM hashes) b JOIN (SELECT buckets.piece AS piece, hashes.* FROM hashes "
        f"JOIN buckets ON {piece} = buckets.piece WHERE last IS NULL OR number <= last) a "
        f"ON a.piece = b.piece AND a.number < b.number WHERE {distance} <= {options.max_distance}) GROUP BY number"
    )


def _write(database: DuckDBPyConnection, out: Path) -> None:
    figures = database.execute(
        "SELECT (SELECT count(*) FROM pictures), count(*) FILTER (distance IS NULL), count(distance), "
        "(SELECT count(*) FROM full_buckets), (SELECT coalesce(sum(size), 0) FROM full_buckets) FROM found"
    ).fetchone()
    names = ("pictures", "exact", "near", "full_buckets", "in_full_buckets")
    content = json.dumps(dict(zip(names, map(int, figures or ()), strict=True)))
    database.execute(
        "COPY (SELECT s.name AS shard, p.key AS key, o.key AS of, f.distance AS distance FROM found f "
        "JOIN pictures p ON p.number = f.number JOIN pictures o ON o.number = f.other "
        f"JOIN shards s ON s.shard = f.number >> {SHARD_BITS} ORDER BY f.number) TO '{_quoted(out)}' "
        f"(FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP}, KV_METADATA {{dedup: '{content}'}})"
    )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
