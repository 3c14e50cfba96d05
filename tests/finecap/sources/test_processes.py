"""A source goes to other processes as it is, and brings no more with it than it needs."""

import multiprocessing
import subprocess
import sys

import pytest

from finecap.sources.door import open_source
from tests.support.sources import everything


def read(source, part):
    """In another process."""
    rows = source.read_rows(part)
    return rows, source.read_pictures(part, range(len(rows)))


def test_workers_that_are_spawned_read_what_this_process_reads(nano_corpus):
    source = open_source(str(nano_corpus))
    _, rows, pictures = everything(str(nano_corpus))
    source.read_rows(source.parts[0])  # an open file or a footer must not go along
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found, encoded = pool.apply(read, (source, source.parts[0]))
    assert found == rows
    assert [encoded[number] for number in range(len(rows))] == pictures


@pytest.mark.parametrize("loads", ["torch", "transformers", "datasets", "fsspec", "aiohttp"])
def test_local_data_loads_none_of_the_large_packages(nano_corpus, loads):
    code = (
        "import sys; from finecap.sources.door import open_source; from finecap.sources import look; "
        f"source = open_source({str(nano_corpus)!r}); source.read_rows(source.parts[0]); "
        f"sys.exit({loads!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
