"""Classification of the annotated boxes of a detection data set (COCO, LVIS), as RegionCLIP and FG-CLIP measure it."""

import io
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO as Annotations
from pycocotools.cocoeval import COCOeval

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_texts
from finevit_eval.kept import Kept
from finevit_eval.regions.choosing import right_share
from finevit_eval.regions.layout_names import COCO
from finevit_eval.regions.mixing import another_of_each, draw
from finevit_eval.regions.region_vectors import Region, RegionVectors, embed_regions
from finevit_eval.result import Outcome, Settings
from finevit_eval.retrieval.pool import fingerprint

PROMPT = "a photo of a {}."


class _Boxes(NamedTuple):
    """Annotations, categories by increasing id, and the region of each annotation by the annotation's id."""

    annotations: dict[int, dict[str, Any]]
    categories: list[dict[str, Any]]
    regions: dict[int, Region]


def measure_box_classes(embedder: Embedder, data: Path, settings: Settings, kept: Kept) -> tuple[Outcome, list[str]]:
    """acc@1 over boxes, and "id: reason" of what was skipped.

    Beside it "mean_per_class" (over the classes that occur) and "ap", pycocotools' AP@[0.5:0.95] of the annotated
    boxes as detections, each with its most similar class. Controls: "shuffled" gives each box the vector of another
    one, "most_common" always answers the most frequent class, "chance" draws one of all classes.

    Args:
        data: Holds one file of annotations with categories, in `annotations` or itself, and the pictures, as
            `file_name` or the end of `coco_url` (LVIS) says, in itself or one of its folders. Crowds are left out.

    Raises:
        ValueError: The folder has another layout.
    """
    boxes = _read(data, settings.limit, settings.seed)
    found = embed_regions(embedder, list(boxes.regions.values()), settings, kept)
    ids = [one for one, region in boxes.regions.items() if region.id in found.vectors]
    columns = {category["id"]: column for column, category in enumerate(boxes.categories)}
    names = [category["name"].replace("_", " ") for category in boxes.categories]
    texts_CD = embed_texts(embedder, [PROMPT.format(name) for name in names], settings.batch_size, kept)
    regions_ND = torch.from_numpy(np.stack([found.vectors[boxes.regions[one].id] for one in ids]))
    cosines_NC = regions_ND @ texts_CD.T
    right_N = torch.tensor([columns[boxes.annotations[one]["category_id"]] for one in ids])
    scores_N = right_share(cosines_NC, right_N)
    shuffled_N = right_share(cosines_NC[another_of_each(len(ids))], right_N)
    best = cosines_NC.max(dim=1)
    samples = [
        _sample(boxes.regions[one], found, names[right], names[column], cosine, score)
        for one, right, column, cosine, score in zip(
            ids, right_N.tolist(), best.indices.tolist(), best.values.tolist(), scores_N.tolist(), strict=True
        )
    ]
    of_class = [scores_N[right_N == column].mean() for column in right_N.unique()]
    others = {"mean_per_class": float(np.mean(of_class)), "ap": _ap(boxes, ids, best.indices, best.values)}
    controls = {
        "shuffled": float(shuffled_N.mean()),
        "most_common": Counter(right_N.tolist()).most_common(1)[0][1] / len(ids),
        "chance": 1 / len(names),
    }
    facts = _facts(boxes, ids, found)
    outcome = Outcome(float(scores_N.mean()), samples, others, controls, facts=facts, pictures=found.read_pictures)
    return outcome, found.skipped


def _sample(
    region: Region, found: RegionVectors, truth: str, prediction: str, cosine: float, score: float
) -> dict[str, Any]:
    return {
        "id": region.id,
        "group": found.digests[region.picture],
        "question": "What is in this box?",
        "box": list(region.box),
        "truth": truth,
        "prediction": prediction,
        "confidence": cosine,
        "score": score,
    }


def _facts(boxes: _Boxes, ids: list[int], found: RegionVectors) -> dict[str, Any]:
    rows = [(boxes.regions[one], boxes.annotations[one]["category_id"]) for one in ids]
    return {
        "prompt": PROMPT,
        "classes": len(boxes.categories),
        "fingerprint": fingerprint(
            (region.id, f"{region.box}\0{category}", found.digests[region.picture]) for region, category in rows
        ),
    }


def _ap(boxes: _Boxes, ids: list[int], columns: torch.Tensor, cosines: torch.Tensor) -> float:
    """pycocotools' AP, of which only the classes can be wrong."""
    with redirect_stdout(io.StringIO()):
        truth = Annotations()
        kept = [boxes.annotations[one] for one in ids]
        truth.dataset = {
            "images": [{"id": one} for one in dict.fromkeys(one["image_id"] for one in kept)],
            "categories": boxes.categories,
            "annotations": [
                {"id": at + 1, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]}
                | {key: one[key] for key in ("image_id", "category_id", "bbox")}
                for at, one in enumerate(kept)
            ],
        }
        truth.createIndex()
        detections = [
            {
                "image_id": one["image_id"],
                "category_id": boxes.categories[int(column)]["id"],
                "bbox": one["bbox"],
                "score": float(cosine),
            }
            for one, column, cosine in zip(kept, columns, cosines, strict=True)
        ]
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [len(ids)]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0]  # boxes of any area
    return float(precision[precision > -1].mean())


def _read(data: Path, limit: int | None, seed: int) -> _Boxes:
    path = _file(data)
    try:
        with redirect_stdout(io.StringIO()):
            coco = Annotations(str(path))
        pictures = {one["id"]: _picture(data, one) for one in coco.dataset["images"]}
        annotations = {one["id"]: one for one in coco.dataset["annotations"] if not one.get("iscrowd")}
        categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
        regions = {
            name: Region(f"{path.stem}/{name}", pictures[one["image_id"]], _corners(one["bbox"]))
            for name, one in annotations.items()
        }
        if unnamed := {one["category_id"] for one in annotations.values()} - {one["id"] for one in categories}:
            raise ValueError(f"categories without a name: {sorted(unnamed)}")
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another form ({error!r}); expected {COCO}.") from error
    if not regions:
        raise ValueError(f"{path} has no boxes; expected {COCO}.")
    return _Boxes(annotations, categories, {name: regions[name] for name in draw(list(regions), limit, seed)})


def _file(data: Path) -> Path:
    """The one file of boxes; COCO's captions and keypoints lie beside it."""
    folder = data / "annotations" if (data / "annotations").is_dir() else data
    files = [one for one in sorted(folder.glob("*.json")) if not one.name.startswith(("captions", "person_keypoints"))]
    vals = [one for one in files if "val" in one.stem]
    if len(vals or files) != 1:
        raise ValueError(
            f"{folder} holds {', '.join(one.name for one in files) or 'no *.json'}; expected {COCO}: one file of "
            "boxes, or one whose name has 'val'."
        )
    return (vals or files)[0]


def _picture(data: Path, image: dict[str, Any]) -> Path:
    """LVIS names COCO's pictures by a URL that ends in folder and file."""
    name = image.get("file_name") or "/".join(image["coco_url"].rsplit("/", 2)[-2:])
    places = [data / name, *sorted(one / name for one in data.iterdir() if one.is_dir())]
    return next((place for place in places if place.is_file()), data / name)


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height
