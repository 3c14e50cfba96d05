"""Parts 3 and 4 of benchmarks/engine/quality.py: boxes of the objects in a caption, and wrong local captions."""

import hashlib
import io
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.engine.quality_passes import box_figures, run_passes
from finecap.corpus.build import generate
from finecap.engine.contract import Row
from finecap.engine.detectors.detector import Detection
from finecap.verdicts import VERIFIED

PLANTED = 0.2
# The oracle of the regrounding: each edge is off by this standard deviation, in parts of the side; so often it points
# to another object; so often it finds something for a caption that no object of the picture has.
NOISE, MISSES, INVENTIONS = 0.06, 0.1, 0.5
NANO = Path("model_cards/finevit-vl-nano")


def scene_record(level: str, index: int, seed: int) -> Row:
    """A scene with its objects: a caption of each that says what and where it is."""
    record = generate("scene", index, seed, "test", level)
    regions = [region for region in record["regions"] if region["kind"] == "object"]
    local = [{name: region[name] for name in ("bbox", "label", "caption")} for region in regions]
    return {
        "kind": "scene",
        "image": record["image"]["bytes"],
        "captions": [record["global_caption"]],
        "local": local,
    }


def scenes(level: str, count: int, seed: int) -> dict[str, Row]:
    return {f"scene-{level}-{index:03d}.png": scene_record(level, index, seed) for index in range(count)}


def plant_wrong(records: dict[str, Row], seed: int) -> dict[str, Row]:
    """The scenes with one local caption in five exchanged for that of another object, half of them for one of the same
    picture if there is one; `planted` says which, `right` what it was.
    """
    rng = random.Random(seed)
    everything = [item["caption"] for record in records.values() for item in record["local"]]
    result = {}
    for key, record in records.items():
        names = {item["caption"] for item in record["local"]}
        local = []
        for item in record["local"]:
            planted, caption = "none", item["caption"]
            if rng.random() < PLANTED:
                here = sorted(names - {caption})
                planted = "same picture" if here and rng.random() < 0.5 else "another picture"
                strangers = [name for name in everything if name not in names]
                caption = rng.choice(here if planted == "same picture" else strangers)
            local.append({**item, "caption": caption, "right": item["caption"], "planted": planted})
        result[key] = {**record, "local": local}
    return result


class Oracle:
    """A detector that knows every box; with noise, it stands for a good detector that is asked for whole captions."""

    name = "oracle"

    def __init__(self, records: dict[str, Row], shuffled: bool = False) -> None:
        objects = [record["local"] for record in records.values()]
        if shuffled:
            objects = objects[1:] + objects[:1]
        self._objects = {
            pixel_key(Image.open(io.BytesIO(record["image"])).convert("RGB")): local
            for record, local in zip(records.values(), objects, strict=True)
        }

    async def detect(self, image: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        """Every object whose caption has all words of the phrase, the name of the object among them."""
        local = self._objects[pixel_key(image)]
        return [
            Detection(tuple(item["bbox"]), index, 1.0)
            for index, phrase in enumerate(phrases)
            for item in local
            if item["label"].split()[-1] in words(phrase)
            and words(phrase) <= words(item.get("right", item["caption"]))
        ]


class NoisyOracle(Oracle):
    """Finds the object that has exactly this caption, as NOISE, MISSES and INVENTIONS say."""

    name = "oracle with noise"

    def __init__(self, records: dict[str, Row], seed: int, shuffled: bool = False) -> None:
        super().__init__(records, shuffled)
        self._seed = seed

    async def detect(self, image: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        local = self._objects[pixel_key(image)]
        found = []
        for index, caption in enumerate(phrases):
            rng = random.Random(f"{self._seed} {pixel_key(image)} {caption}")
            own = [item for item in local if item["right"] == caption]
            others = [item for item in local if item["right"] != caption] or local
            if own and rng.random() >= MISSES:
                item = own[0]
            elif own or rng.random() < INVENTIONS:
                item = rng.choice(others)
            else:
                continue
            x1, y1, x2, y2 = item["bbox"]
            sides = (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
            box = [edge + rng.gauss(0, NOISE) * side for edge, side in zip(item["bbox"], sides, strict=True)]
            found.append(Detection(tuple(box), index, 0.9))
        return found


class NanoGrounder:
    """FineViT-VL nano, asked as `finevit ground` asks it."""

    name = "finevit-vl-nano"

    def __init__(self) -> None:
        from finevit.ask import load

        self.generator = load(str(NANO), "cpu")

    async def detect(self, image: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        from finevit.ask import ground

        return [
            Detection(found.box, index, None)
            for index, phrase in enumerate(phrases)
            for found in ground(self.generator, image, phrase, max_new_tokens=32)[0].boxes
        ]


def pixel_key(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.casefold())) - {"a", "an", "the"}


def measure_boxes(folder: Path, records: dict[str, Row], seed: int) -> dict[str, Any]:
    """How many objects of the captions come out of phrases, boxes and balance."""
    sections = {
        "recaption": {"function": "benchmarks.engine.quality_passes:corpus_captions"},
        "phrases": {},
        "boxes": {"detector": "oracle"},
        "balance": {},
    }
    result: dict[str, Any] = {"pictures": len(records)}
    for name, shuffled in (("oracle", False), ("control: boxes of another picture", True)):
        models = {"boxes": {"detector": Oracle(records, shuffled)}}
        rows = run_passes(folder / name.split(":")[0], records, sections, models, seed)
        kept = [
            [row["objects"][index]["bbox"] for index in balanced["kept_objects"] or []] if row["objects"] else []
            for row, balanced in zip(rows["boxes"], rows["balance"], strict=True)
        ]
        by_key = {row["key"]: boxes for row, boxes in zip(rows["boxes"], kept, strict=True)}
        exact = [[item["bbox"] for item in record["local"]] for record in records.values()]
        result[name] = box_figures(exact, [by_key[key] for key in records])
        result[name] |= {
            "objects": sum(len(item["local"]) for item in records.values()),
            "phrases": sum(len(row["phrases"] or []) for row in rows["phrases"]),
            "boxes": sum(map(len, kept)),
        }
    result["phrase extractor"] = rows["phrases"][0]["phrase_extractor"]
    return result


def measure_regrounding(folder: Path, records: dict[str, Row], detector: Any, exact: Any, seed: int) -> dict[str, Any]:
    """The verdicts on local captions of which some are planted wrong.

    Args:
        detector: of the verify pass. exact: of the boxes pass.
    """
    sections = {
        "recaption": {"function": "benchmarks.engine.quality_passes:corpus_captions"},
        "phrases": {},
        "boxes": {"detector": "oracle"},
        "balance": {},
        "local_captions": {"function": "benchmarks.engine.quality_passes:corpus_local_captions"},
        "verify": {"read_back_share": 0, "in_flight": 1},
    }
    models = {"boxes": {"detector": exact}, "verify": {"detector": detector}}
    rows = run_passes(folder, records, sections, models, seed)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for boxes, verdicts in zip(rows["boxes"], rows["verify"], strict=True):
        local = records[boxes["key"]]["local"]
        for verdict in verdicts["verdicts"] or []:
            bbox = boxes["objects"][verdict["object"]]["bbox"]
            planted = next(item["planted"] for item in local if item["bbox"] == bbox)
            counts[planted][0] += 1
            counts[planted][1] += verdict["verdict"] != VERIFIED
    good, lost = counts.pop("none")
    wrong, caught = (sum(values[place] for values in counts.values()) for place in (0, 1))
    kept = good - lost + wrong - caught
    return {
        "detector": detector.name,
        "good captions": good,
        "good captions lost": lost,
        "wrong captions": wrong,
        "wrong captions caught": caught,
        **{f"{kind}: wrong, caught": values for kind, values in sorted(counts.items())},
        "precision before": round(good / (good + wrong), 4),
        "precision of what is kept": round((good - lost) / kept, 4) if kept else None,
    }
