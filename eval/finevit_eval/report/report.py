"""The report: one HTML file with tables, curves, examples and failures; nothing external, so that it can be sent."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from finecap.files import write_text
from finevit_eval.report.cards import card, data_uri
from finevit_eval.report.curve import curve_svg
from finevit_eval.report.examples import Examples, num_right
from finevit_eval.report.runs import Run
from finevit_eval.report.score_charts import score_charts
from finevit_eval.report.scores import suite_tables, write_tables
from finevit_eval.shown import MOST_SIDE, encoded

CAPTIONS_FILE = "captions.json"
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
SHOWN_FACTS = ("date", "model", "weights", "samples", "commit", "data", "split", "cpu", "threads", "gpus", "device")
SHOWN_FACTS += ("dtype", "batch_size", "max_pixels", "seed", "command", "skipped")
"""What of a receipt a reader needs; the JSON beside the report holds the rest."""


def write_report(
    runs: Sequence[Run],
    examples: Examples,
    out: Path,
    curve: Sequence[Mapping[str, Any]] = (),
    pictures: Path | None = None,
) -> None:
    """Write the report, and beside it all results as JSON and CSV under the same name.

    Args:
        runs: As `finevit_eval.report.runs.gather` gives them.
        examples: As `finevit_eval.report.examples.pick_examples` gives them.
        out: The HTML file.
        curve: Training log, one dict per logged step with "step" and "loss"; others are passed over.
        pictures: Folder of pictures to show, such as `finevit features` writes, in the order of their names. Their
            captions stand in its captions.json by file name; without one the file's name is the caption.

    Raises:
        ValueError: There is no run, or `pictures` holds no pictures.
    """
    if not runs:
        raise ValueError("There are no results to report; give what finevit_eval.report.runs.gather returned.")
    if out.suffix in (".json", ".csv"):
        raise ValueError(f"{out} would be written over by the report's own {out.suffix} file; give an .html name.")
    tables = suite_tables(runs)
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader("finevit_eval.report", "")
    )
    html = environment.get_template("report.html.jinja").render(
        models=list(dict.fromkeys(run.label for run in runs)),
        tables=tables,
        has_blind=any(table["has_blind"] for table in tables),
        interval_method=runs[0].results["interval_method"],
        charts=score_charts(runs),
        curve=curve_svg(curve),
        examples=[card(example) for example in examples.drawn],
        num_right=num_right(examples.drawn),
        failures=[card(example) for example in examples.failed],
        by_confidence=any("confidence" in example.sample for example in examples.failed),
        figures=_figures(pictures) if pictures else [],
        receipts=[_receipt(run) for run in runs],
        beside=out.with_suffix(".json").name,
    )
    write_text(out, html)
    write_tables(runs, out)


def _figures(folder: Path) -> list[dict[str, str]]:
    """The pictures of a folder and those below it, with their captions."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not files:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURE_ENDINGS)}).")
    captions = {}
    if (folder / CAPTIONS_FILE).is_file():
        captions = json.loads((folder / CAPTIONS_FILE).read_text(encoding="utf-8"))
    figures = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        with Image.open(path) as image:
            source = data_uri(encoded(image.convert("RGB"), MOST_SIDE))
        figures.append({"source": source, "caption": captions.get(name, Path(name).with_suffix("").as_posix())})
    return figures


def _receipt(run: Run) -> dict[str, Any]:
    """What a reader needs of how a run was made: settings, versions and fingerprints."""
    receipt = run.results["receipts"]["score"]
    rows = [(name.replace("_", " "), _listed(receipt[name])) for name in SHOWN_FACTS if receipt.get(name)]
    versions = _listed({name: number for name, number in receipt.get("versions", {}).items() if number})
    prints = {name: str(task.get("fingerprint"))[:12] for name, task in receipt.get("tasks", {}).items()}
    return {"title": run.label, "rows": [*rows, ("versions", versions), ("data fingerprints", _listed(prints))]}


def _listed(value: Any) -> str:
    """A value of a receipt on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
