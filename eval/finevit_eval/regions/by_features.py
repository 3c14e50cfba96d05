"""The runner of what a model of pictures and texts tells about regions: the vector of a box against those of texts."""

from collections.abc import Sequence
from pathlib import Path

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import kept_conditions, preparation
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.regions.box_classes import measure_box_classes
from finevit_eval.regions.fgovd import measure_fgovd
from finevit_eval.regions.region_vectors import way_of_regions
from finevit_eval.result import Measured, Outcome, Settings


def compare_regions(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Compare boxes with texts: "box_classes" and "fgovd_<level>".

    FineViT-Dual's boxes have region features; of other models the crop of a box is embedded, and the receipt says so.

    Args:
        names: Of the evaluations.
        model: Folder of model and processor, or a Hub id.
        data: In the layout of the evaluations.
        out: For what is kept of an interrupted run.
        settings: How; `limit` counts boxes.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    if settings.split != "test":
        raise ValueError(f"{names[0]} has no splits; leave split ({settings.split}) out.")
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    outcomes: dict[str, Outcome] = {}
    skipped: list[str] = []
    with Kept(out / KEPT_FILE, kept_conditions(model, embedder, settings)) as kept:
        for name in names:
            measured = (
                measure_box_classes(embedder, data, settings, kept)
                if name == "box_classes"
                else measure_fgovd(name.removeprefix("fgovd_"), embedder, data, settings, kept)
            )
            outcomes[name] = measured[0]
            skipped += measured[1]
    facts = {**embedder.facts, "preparation": preparation(embedder), "regions": way_of_regions(embedder)}
    return Measured(outcomes, {**facts, "skipped": skipped})
