"""Evaluations on data that come inside packages: the data become FineCap records, and a runner for such records does
the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.features import FINECAP_FEATURES
from finecap.files import committed
from finecap.records import Record, validate_record
from finecap.shards.layout import split_file
from finevit_eval.result import Measured, Settings


def _emoji() -> Iterable[Record]:
    from finevit_eval.offline.openmoji import openmoji_records

    return openmoji_records()


def _stamps() -> Iterable[Record]:
    from finevit_eval.offline.stamps import stamp_records

    return stamp_records()


def _pdf() -> Iterable[Record]:
    from finevit_eval.offline.pdf_pages import manual_records

    return manual_records()


def _photo() -> Iterable[Record]:
    from finevit_eval.offline.photographs import photograph_records

    return photograph_records()


SETS: dict[str, Callable[[], Iterable[Record]]] = {"emoji": _emoji, "stamps": _stamps, "pdf": _pdf, "photo": _photo}
Runner = Callable[[Sequence[str], str, Path, Path, Settings], Measured]


def measure_set(
    origin: str, by: Runner, asked: Mapping[str, str], model: str, out: Path, settings: Settings
) -> Measured:
    """Measure a model on one of `SETS`.

    Args:
        origin: The set; it becomes records in `<out>/offline/<origin>`.
        by: Measures by evaluations for such records.
        asked: The evaluations, each by what it is called here.
        model: Folder of model and processor, or a Hub id.
        out: For the records, and what the runner keeps.
        settings: How.

    Raises:
        ValueError: Model or settings cannot be used, or the data cannot be had.
    """
    folder = out / "offline" / origin
    facts = write_set(origin, folder)
    measured = by(list(asked.values()), model, folder, out, settings)
    outcomes = {name: measured.outcomes[inner] for name, inner in asked.items()}
    with_facts = {name: replace(outcome, facts={**outcome.facts, **facts}) for name, outcome in outcomes.items()}
    return Measured(with_facts, measured.facts)


def write_set(name: str, folder: Path) -> dict[str, str]:
    """Write one of `SETS` as a test split in the Hub's layout.

    Returns:
        Its "source" and "license", for the receipt.

    Raises:
        ValueError: A package is not installed, or cannot be fetched.
    """
    try:
        records = list(SETS[name]())
    except ImportError as error:
        raise ValueError(
            f"{name} needs {error.name}, which is not installed; install the extra: pip install 'finevit[offline]'."
        ) from error
    for record in records:
        validate_record(record)
    with committed(split_file(folder, "test", 0, 1)) as aside:
        pq.write_table(pa.Table.from_pylist(records, schema=FINECAP_FEATURES.arrow_schema), aside, row_group_size=100)
    return {"source": records[0]["source"], "license": records[0]["license"]}
