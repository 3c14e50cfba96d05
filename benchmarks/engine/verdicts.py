"""How true is what the caption engine calls verified? Measured on the embedded corpus, whose truth is known.

    python -m benchmarks.engine.verdicts      # under two minutes on two cores
    python -m benchmarks.engine.verdicts --charts 60 25 15 --scenes 100 --nano 60 30    # the committed figures

Everything goes through the passes themselves (`run_shard`), from a folder of pictures.

1. bars: captions of the bars of charts, half of them made wrong in one respect (colour, value, name, or the caption of
   another bar of the picture), at boxes that are off as a good detector's are; no detector looks again, so pixels and
   OCR alone decide. Control: every bar gets the caption of a bar of another picture.
2. colours: captions of drawn objects that give a colour, right and with another colour word.
3. nano: FineViT-VL nano writes the captions, finds the boxes and grounds the captions again, as in the recipe
   `caption_offline`. Control: the truth of another picture of the kind.

A caption is true if it is the corpus' own, letter for letter, of the thing that its box hits (IoU 0.5). Writes JSON
with versions, sizes and seed to benchmarks/results/.
"""

import argparse
import io
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.engine.quality import changed_digit
from benchmarks.engine.quality_objects import NOISE, NanoGrounder, scene_record
from benchmarks.engine.quality_passes import run_passes
from benchmarks.measuring import add_out, conditions, write_figures
from finecap.boxes import box_ious
from finecap.corpus.build import generate
from finecap.corpus.charts.spec import COLORS
from finecap.engine.contract import Row
from finecap.engine.language.colour_words import SHADES, colours_said
from finecap.engine.reading.evidence import is_other_colour
from finecap.files import write_json
from finecap.verdicts import REFUTED, VERDICTS, VERIFIED

PACKAGES = ("rapidocr", "onnxruntime", "torch", "transformers")
WRONG = 0.5
HIT = 0.5
BAR = re.compile(r"the (?P<colour>\w+) bar for (?P<name>.+), (?P<value>[\d.]+)")
CAPTIONED = {"recaption": {"function": "benchmarks.engine.quality_passes:corpus_captions"}}
NANO = "finevit-vl-nano"


# --- 1. bars


def bar_record(level: str, index: int, seed: int, rng: random.Random) -> Row:
    """A chart and its bars, each with a box that is a little off and a caption, right or made wrong; no bars if it is
    another kind of chart.
    """
    record = generate("chart", index, seed, "test", level)
    bars = [(region["bbox"], region["caption"] or "") for region in record["regions"] if region["label"] == "bar"]
    captions = [caption for _, caption in bars]
    local = []
    for box, right in bars:
        planted = rng.choice(["colour", "value", "name", "other bar"]) if rng.random() < WRONG else "none"
        caption = wrong_caption(right, captions, planted, rng)
        kind = planted if caption != right else "none"
        item = {"label": "bar", "caption": caption, "right": right, "planted": kind}
        local.append({**item, "exact": box, "bbox": jittered(box, record, rng)})
    return {"kind": "chart", "image": record["image"]["bytes"], "captions": [record["global_caption"]], "local": local}


def wrong_caption(caption: str, captions: Sequence[str], planted: str, rng: random.Random) -> str:
    """The caption with one thing exchanged; as it is where the picture has nothing to exchange it for."""
    parts = BAR.fullmatch(caption)
    assert parts is not None
    said = parts.groupdict()
    others = [BAR.fullmatch(other) for other in captions if other != caption]
    if planted == "other bar" and others:
        return rng.choice([other for other in captions if other != caption])
    if planted == "colour":
        said["colour"] = rng.choice([name for name in COLORS if name != said["colour"]])
    if planted == "value":
        said["value"] = changed_digit(said["value"], " ".join(captions), rng)
    names = [other["name"] for other in others if other and other["name"] != said["name"]]
    if planted == "name" and names:
        said["name"] = rng.choice(names)
    return "the {colour} bar for {name}, {value}".format(**said)


def jittered(box: Sequence[float], record: Any, rng: random.Random) -> list[float]:
    """Each edge off by NOISE of the side, inside the picture."""
    x1, y1, x2, y2 = box
    sides = (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    limits = (record["width"], record["height"]) * 2
    edges = [
        min(max(edge + rng.gauss(0, NOISE) * side, 0), limit)
        for edge, side, limit in zip(box, sides, limits, strict=True)
    ]
    # As parquet keeps them.
    moved = [float(np.float32(edge)) for edge in edges]
    return moved if moved[2] - moved[0] >= 1 and moved[3] - moved[1] >= 1 else list(box)


def measure_bars(folder: Path, level: str, count: int, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{seed} {level}")
    records: dict[str, Row] = {}
    for index in range(count):
        if (record := bar_record(level, index, seed, rng))["local"]:
            records[f"chart-{level}-{index:03d}.png"] = record
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    rows = bar_rows(folder / "right", records, {}, seed)
    for item, verdict in judged(rows["verify"], records):
        hit = box_ious(np.array(item["exact"]), np.array(item["bbox"]))[0] >= HIT
        counts[item["planted"] if hit else "box"][verdict] += 1
    write_json(folder / "texts.json", {row["key"]: row["texts"] for row in rows["ocr"]})
    others, read = of_others(records), {"function": "benchmarks.engine.quality_passes:read_before"}
    verdicts = judged(bar_rows(folder / "control", others, read, seed)["verify"], others)
    control = Counter[str](verdict for _, verdict in verdicts)
    good, bad = counts["none"], sum((count for kind, count in counts.items() if kind != "none"), Counter())
    verified = good[VERIFIED] + bad[VERIFIED]
    return {
        "pictures": len(records),
        "good captions": good.total(),
        "good captions verified": good[VERIFIED],
        "good captions refuted": good[REFUTED],
        "wrong captions": bad.total(),
        "wrong captions refuted": bad[REFUTED],
        **{f"wrong in {kind}": dict(count) for kind, count in sorted(counts.items()) if kind != "none"},
        "verified": verified,
        "true among verified": round(good[VERIFIED] / verified, 4) if verified else None,
        "control: captions of another picture": dict(control),
    }


def bar_rows(folder: Path, records: dict[str, Row], ocr: dict[str, str], seed: int) -> dict[str, list[Row]]:
    sections = {
        **CAPTIONED,
        "ocr": ocr,
        "phrases": {},
        "boxes": {"detector": "none", "function": "benchmarks.engine.quality_passes:given_boxes"},
        "balance": {},
        "local_captions": {"function": "benchmarks.engine.quality_passes:corpus_local_captions"},
        "verify": {"read_back_share": 0},
    }
    return run_passes(folder, records, sections, {}, seed)


def judged(rows: Sequence[Row], records: dict[str, Row]) -> Iterator[tuple[Row, str]]:
    """Each local caption of the truth with its verdict, "none" where nothing was decided."""
    for row in rows:
        for verdict in row["verdicts"]:
            yield records[row["key"]]["local"][verdict["object"]], verdict["verdict"] or "none"


def of_others(records: dict[str, Row]) -> dict[str, Row]:
    """The bars of each picture with the right captions of the next one's, where no bar of the picture has that very
    name and value.
    """
    everything = list(records.values())
    result = {}
    for (key, record), other in zip(records.items(), everything[1:] + everything[:1], strict=True):
        own = {item["right"] for item in record["local"]}
        foreign = [item["right"] for item in other["local"] if item["right"] not in own]
        pairs = zip(record["local"], foreign, strict=False)
        result[key] = {**record, "local": [{**item, "caption": caption} for item, caption in pairs]}
    return result


# --- 2. colours


def measure_colours(level: str, count: int, seed: int) -> dict[str, Any]:
    """Objects whose captions give them a colour, with that one and with another one."""
    rng = random.Random(seed)
    good, lost = 0, []
    wrong, totals = Counter[str](), Counter[str]()
    for index in range(count):
        record = scene_record(level, index, seed)
        image = Image.open(io.BytesIO(record["image"])).convert("RGB")
        for item in record["local"]:
            said = colours_said(item["caption"], item["label"])
            if len(said) != 1:
                continue
            good += 1
            if is_other_colour(item["caption"], item["label"], item["bbox"], image):
                lost.append(item["caption"])
            other = rng.choice([name for name in SHADES if name != said[0]])
            caption = re.sub(rf"\b{said[0]}\b", other, item["caption"].replace("grey", "gray"), count=1)
            totals[other] += 1
            wrong[other] += is_other_colour(caption, item["label"], item["bbox"], image)
    return {
        "captions with a colour": good,
        "good captions refuted": len(lost),
        "refuted": lost[:10],
        "wrong colours": totals.total(),
        "wrong colours refuted": wrong.total(),
        "refuted by wrong colour": {name: f"{wrong[name]} of {totals[name]}" for name in sorted(totals)},
    }


# --- 3. nano


def measure_nano(folder: Path, counts: dict[str, int], seed: int) -> dict[str, Any]:
    records, truth = {}, {}
    for kind, count in counts.items():
        for index in range(count):
            record = generate(kind, index, seed, "test", "nano")
            key = f"{kind}-{index:03d}.png"
            truth[key] = [(item["bbox"], item["caption"]) for item in record["regions"] if item["caption"]]
            records[key] = {
                "kind": kind,
                "image": record["image"]["bytes"],
                "captions": [record["global_caption"]],
            }
    sections = {
        "captioners": [{"name": NANO, "model": NANO, "endpoints": ["http://127.0.0.1:1/v1"]}],
        **CAPTIONED,
        "ocr": {},
        "phrases": {"function": "finecap.engine.language.corpus_phrases:run"},
        "boxes": {"captioner": NANO, "box_format": "finevit", "documents": True},
        "balance": {},
        "local_captions": {"function": "benchmarks.engine.quality_passes:nano_local_captions"},
        "verify": {"read_back_share": 0, "in_flight": 1},
    }
    nano = NanoGrounder()
    models = {"boxes": {"detector": nano}, "verify": {"detector": nano}, "local_captions": {"nano": nano.generator}}
    rows = run_passes(folder, records, sections, models, seed)
    result: dict[str, Any] = {}
    for kind in counts:
        keys = [key for key in records if records[key]["kind"] == kind]
        shifted = dict(zip(keys, [truth[key] for key in keys[1:] + keys[:1]], strict=True))
        result[kind] = {
            "pictures": len(keys),
            **of_verdicts(rows, keys, truth),
            "control: truth of another picture": of_verdicts(rows, keys, shifted),
        }
    return result


def of_verdicts(rows: dict[str, list[Row]], keys: Sequence[str], truth: dict[str, Any]) -> dict[str, Any]:
    """Captions and true ones among them by verdict, and why captions were refuted."""
    found = {name: {row["key"]: row for row in rows[name]} for name in ("boxes", "local_captions", "verify")}
    totals, true, reasons = Counter[str](), Counter[str](), Counter[str]()
    for key in keys:
        said = {item["object"]: item["caption"] for item in found["local_captions"][key]["local_captions"]}
        for verdict in found["verify"][key]["verdicts"]:
            name, box = verdict["verdict"] or "none", found["boxes"][key]["objects"][verdict["object"]]["bbox"]
            totals[name] += 1
            right = is_true(said[verdict["object"]], box, truth[key])
            true[name] += right
            if name == REFUTED:
                reasons[f"{verdict['reason'].split(':')[0]}, {'true' if right else 'wrong'}"] += 1
    return {
        "captions": totals.total(),
        "true": true.total(),
        **{name: {"captions": totals[name], "true": true[name]} for name in (*VERDICTS, "none")},
        "refuted because": dict(reasons.most_common()),
    }


def is_true(caption: str, box: Sequence[float], truth: Sequence[tuple[list[float], str]]) -> bool:
    return any(caption == right and box_ious(np.array(exact), np.array(box))[0] >= HIT for exact, right in truth)


# --- all together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--charts", type=int, nargs=3, default=[30, 12, 8], help="of the levels nano, small, base")
    parser.add_argument("--scenes", type=int, default=60, help="for the colours")
    parser.add_argument("--nano", type=int, nargs=2, default=[24, 15], help="charts and scenes for the nano model")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "engine_verdicts")
    args = parser.parse_args()
    start, cpu = time.perf_counter(), time.process_time()
    levels = ("nano", "small", "base")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {
            "bars": {
                level: measure_bars(folder / level, level, count, args.seed)
                for level, count in zip(levels, args.charts, strict=True)
            },
            "colours": measure_colours("base", args.scenes, args.seed),
            "nano": measure_nano(folder / "nano", dict(zip(("chart", "scene"), args.nano, strict=True)), args.seed),
        }
    result["setting"] = {
        **{name: value for name, value in vars(args).items() if name != "out"},
        "noise of edges": NOISE,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        **conditions(PACKAGES),
    }
    write_figures(result, args.out)
    for part in ("bars", "colours", "nano"):
        print(f"\n{part}")
        for name, figures in result[part].items():
            print(f"  {name}: {figures}")


if __name__ == "__main__":
    main()
