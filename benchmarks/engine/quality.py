"""How good are the caption engine's passes? Measured on the embedded corpus, whose truth is known by construction.

    python -m benchmarks.engine.quality                 # under two minutes on two cores
    python -m benchmarks.engine.quality --pages 10 --scenes 40 --nano-scenes 60    # the committed figures
    python -m benchmarks.engine.quality --pages 4 --scenes 10 --nano-scenes 10

Everything goes through the passes themselves (`run_shard`), from a folder of pictures; only the captioner is replaced,
by captions that the corpus knows to be true, of which one in five is then made wrong on purpose.

1. ocr: character error rate and boxes against the exact ones, beside rapidocr as it ships, and against the truth of
   another picture (control).
2. text checks: numbers and quotes of captions against OCR: planted errors caught, good captions flagged.
3. boxes: objects named in a caption that end as a box, with an ORACLE detector that knows every box: what phrases,
   suppression and balancing lose. Control: boxes of another picture.
4. regrounding: wrong local captions caught, good ones lost, with the oracle under stated noise, with a REAL model
   (FineViT-VL nano on the scenes of its level), and with boxes of another picture (control).

Writes JSON with versions, sizes and seed.
"""

import argparse
import io
import random
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from PIL import Image

from benchmarks.engine.quality_objects import (
    INVENTIONS,
    MISSES,
    NOISE,
    PLANTED,
    NanoGrounder,
    NoisyOracle,
    Oracle,
    measure_boxes,
    measure_regrounding,
    plant_wrong,
    scenes,
)
from benchmarks.engine.quality_passes import box_figures, is_middle_in, run_passes
from benchmarks.measuring import add_out, conditions, write_figures
from finecap.corpus.build import generate
from finecap.engine.contract import Row
from finecap.files import write_json

PACKAGES = ("rapidocr", "onnxruntime", "jiwer", "torch", "transformers")
# Captions that say what stands on a page, for each page.
CAPTIONS = 6
SETS = (("doc", "small"), ("doc", "base"), ("chart", "small"), ("chart", "base"))


# --- 1. OCR


def page_record(kind: str, level: str, index: int, seed: int) -> Row:
    """A picture with its exact lines and words."""
    record = generate(kind, index, seed, "test", level)
    texts = [region for region in record["regions"] if region["text"] and "\n" not in region["text"]]
    lines = [region for region in texts if region["label"] == "line"] if kind == "doc" else texts
    words = [region for region in texts if region["label"] == "word"]
    return {
        "kind": kind,
        "image": record["image"]["bytes"],
        "captions": [record["global_caption"]],
        "lines": [{"bbox": item["bbox"], "text": item["text"]} for item in lines],
        "words": [{"bbox": item["bbox"], "text": item["text"]} for item in words],
    }


def shipped_ocr(images: Iterable[bytes]) -> tuple[list[list[Row]], float]:
    """rapidocr with its own settings, in the form of the pass's column, and its seconds of CPU."""
    from rapidocr import RapidOCR

    from finecap.engine.reading.reader import upright_box, words_of_lines

    engine = RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1})
    pages, start = [], time.process_time()
    for data in images:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        found: Any = engine(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), return_word_box=True)
        texts: list[Row] = []
        if found.boxes is not None:
            groups = words_of_lines(found.txts, found.word_results)
            for number, (quad, text, words) in enumerate(zip(found.boxes, found.txts, groups, strict=True)):
                pieces = [("line", quad, text), *(("word", corners, word) for word, _, corners in words)]
                texts += [
                    {"bbox": box, "level": level, "text": word, "line": number}
                    for level, corners, word in pieces
                    if (box := upright_box(corners, image.size))
                ]
        pages.append(texts)
    return pages, time.process_time() - start


def ocr_figures(truth: Sequence[Row], pages: Sequence[list[Row]]) -> dict[str, Any]:
    """Error rate and boxes of some pages.

    `cer_in_place`: jiwer's character error rate of each exact line against the words whose middles lie in its box;
    `cer_of_page`: of the lines joined in the order of the record against those joined in reading order (documents
    only: the parts of a chart have no order).
    """
    figures: dict[str, Any] = {"pictures": len(truth), "lines": sum(len(page["lines"]) for page in truth)}
    pairs = [
        (line["text"], text_in(line["bbox"], found))
        for page, found in zip(truth, pages, strict=True)
        for line in page["lines"]
    ]
    figures["cer_in_place"] = round(jiwer.cer([one for one, _ in pairs], [other for _, other in pairs]), 4)
    if truth[0]["kind"] == "doc":
        whole = [" ".join(line["text"] for line in page["lines"]) for page in truth]
        read = [" ".join(item["text"] for item in found if item["level"] == "line") for found in pages]
        figures["cer_of_page"] = round(jiwer.cer(whole, read), 4)
    for level in ("line", "word"):
        exact = [[item["bbox"] for item in page[f"{level}s"]] for page in truth]
        found = [[item["bbox"] for item in page if item["level"] == level] for page in pages]
        if any(exact):
            figures[level] = box_figures(exact, found)
    return figures


def text_in(box: Sequence[float], texts: Iterable[Row]) -> str:
    """Words whose middles lie in a box; of lines whose words have no boxes the whole."""
    with_words = {item["line"] for item in texts if item["level"] == "word"}
    pieces = [item for item in texts if item["level"] == "word" or item["line"] not in with_words]
    return " ".join(item["text"] for item in pieces if is_middle_in(item["bbox"], box))


def measure_ocr(folder: Path, pages: int, seed: int) -> tuple[dict[str, Any], dict[str, Row], list[Row]]:
    """Figures of each set, the pictures by key, and the rows of the OCR pass for the text checks."""
    records = {
        f"{kind}-{level}-{index:03d}.png": page_record(kind, level, index, seed)
        for kind, level in SETS
        for index in range(pages)
    }
    start = time.process_time()
    rows = {row["key"]: row for row in run_passes(folder / "ocr", records, {"ocr": {}}, {}, seed)["ocr"]}
    seconds = time.process_time() - start
    shipped, shipped_seconds = shipped_ocr(record["image"] for record in records.values())
    shipped_by_key = dict(zip(records, shipped, strict=True))
    result: dict[str, Any] = {"engine": rows[next(iter(records))]["ocr_engine"], "sets": {}}
    for kind, level in SETS:
        keys = [key for key in records if key.startswith(f"{kind}-{level}-")]
        truth, read = [records[key] for key in keys], [rows[key]["texts"] for key in keys]
        result["sets"][f"{kind} {level}"] = {
            "pass": ocr_figures(truth, read),
            "rapidocr as it ships": ocr_figures(truth, [shipped_by_key[key] for key in keys]),
            "control: text of another picture": ocr_figures(truth, read[1:] + read[:1]),
        }
    result["cpu_seconds_per_picture"] = {
        "ingest to OCR": round(seconds / len(records), 3),
        "rapidocr as it ships": round(shipped_seconds / len(records), 3),
    }
    return result, records, list(rows.values())


# --- 2. numbers and quotes


def saying(record: Row, rng: random.Random) -> dict[str, str]:
    """A true caption with one reading and one quote from the page, or one of them made wrong."""
    readings = [
        line["text"] for line in record["lines"] if re.fullmatch(r"[$€£]?\d[\d.,]*\d|[A-Z]+-?\d{2,}", line["text"])
    ]
    quotable = [line["text"] for line in record["lines"] if len(re.findall(r"[A-Za-z]{4,}", line["text"])) > 1]
    number = rng.choice(readings) if readings else None
    quote = rng.choice(quotable) if quotable else None
    kinds = [kind for kind, there in (("number", number), ("quote", quote)) if there]
    planted = rng.choice(kinds) if kinds and rng.random() < PLANTED else "none"
    if planted == "number" and number:
        number = changed_digit(number, " ".join(line["text"] for line in record["lines"]), rng)
    if planted == "quote" and quote:
        quote = changed_word(quote, rng)
    parts = [record["captions"][0], number and f"One entry is {number}.", quote and f'A line says "{quote}".']
    return {"caption": " ".join(part for part in parts if part), "planted": planted}


def changed_digit(number: str, page: str, rng: random.Random) -> str:
    """With another digit, and not something else that stands on the page."""
    while True:
        place = rng.choice([index for index, sign in enumerate(number) if sign.isdigit()])
        changed = number[:place] + rng.choice("123456789") + number[place + 1 :]
        if changed not in page:
            return changed


def changed_word(quote: str, rng: random.Random) -> str:
    old = rng.choice(re.findall(r"[A-Za-z]{4,}", quote))
    return quote.replace(old, rng.choice(["harbour", "violet", "quarterly", "umbrella", "forbidden"]), 1)


def measure_text_checks(folder: Path, records: dict[str, Row], ocr: list[Row], seed: int) -> dict[str, Any]:
    """Each page with the corpus' own caption and some that say what stands on it, through the verify pass."""
    rng = random.Random(seed)
    said = {key: [saying(record, rng) for _ in range(CAPTIONS)] for key, record in records.items()}
    truth = {key: {**record, "captions": [one["caption"] for one in said[key]]} for key, record in records.items()}
    plain = flags_of(folder / "plain", records, ocr, seed)
    flags = flags_of(folder / "saying", truth, ocr, seed)
    shuffled = [{**row, "texts": other["texts"]} for row, other in zip(ocr, ocr[1:] + ocr[:1], strict=True)]
    control = flags_of(folder / "shuffled", truth, shuffled, seed)
    result = {}
    for kind in ("doc", "chart"):
        keys = [key for key in records if records[key]["kind"] == kind]
        every = [(key, number, said[key][number]["planted"]) for key in keys for number in range(CAPTIONS)]
        good = [(key, number) for key, number, planted in every if planted == "none"]
        result[kind] = {
            "corpus captions": len(keys),
            "corpus captions flagged": sum(bool(plain[key]) for key in keys),
            "good captions": len(good),
            "good captions flagged": sum(has_flag(flags, *one) for one in good),
            "flags on good captions": [
                flag for key, number in good for flag in flags[key] if flag.startswith(f"{number}: ")
            ][:5],
            "control: good captions flagged with the text of another picture": sum(
                has_flag(control, *one) for one in good
            ),
        }
        for planted in ("number", "quote"):
            wrong = [(key, number) for key, number, what in every if what == planted]
            missed = [one for one in wrong if not has_flag(flags, *one, planted)]
            result[kind] |= {
                f"planted {planted}s": len(wrong),
                f"planted {planted}s caught": len(wrong) - len(missed),
                f"planted {planted}s missed": [said[key][number]["caption"] for key, number in missed][:5],
            }
    return result


def has_flag(flags: dict[str, list[str]], key: str, number: int, kind: str = "") -> bool:
    return any(flag.startswith(f"{number}: {kind}") for flag in flags[key])


def flags_of(folder: Path, truth: dict[str, Row], ocr: list[Row], seed: int) -> dict[str, list[str]]:
    """Flags of the verify pass, given what OCR has read."""
    folder.mkdir(parents=True)
    write_json(folder / "texts.json", {row["key"]: row["texts"] for row in ocr})
    sections = {
        "ocr": {"function": "benchmarks.engine.quality_passes:read_before"},
        "recaption": {"function": "benchmarks.engine.quality_passes:corpus_captions"},
        "verify": {"read_back_share": 0},
    }
    rows = run_passes(folder / "run", truth, sections, {}, seed)["verify"]
    return {row["key"]: row["flags"] for row in rows}


# --- all together


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ocr, pages, rows = measure_ocr(folder, args.pages, args.seed)
    base = scenes("base", args.scenes, args.seed)
    wrong = plant_wrong(base, args.seed)
    nano = plant_wrong(scenes("nano", args.nano_scenes, args.seed), args.seed)
    noisy, shuffled = NoisyOracle(wrong, args.seed), NoisyOracle(wrong, args.seed, shuffled=True)
    return {
        "ocr": ocr,
        "text checks": measure_text_checks(folder / "text", pages, rows, args.seed),
        "boxes": measure_boxes(folder / "boxes", base, args.seed),
        "regrounding": {
            "noise": {"edges": NOISE, "misses": MISSES, "inventions": INVENTIONS},
            "oracle with noise, base scenes": measure_regrounding(
                folder / "noisy", wrong, noisy, Oracle(wrong), args.seed
            ),
            "control: boxes of another picture": measure_regrounding(
                folder / "control", wrong, shuffled, Oracle(wrong), args.seed
            ),
            "real model, nano scenes": measure_regrounding(
                folder / "nano", nano, NanoGrounder(), Oracle(nano), args.seed
            ),
        },
    }


def print_table(result: dict[str, Any]) -> None:
    print(f"{'OCR':16s}{'':34s}CER in place  of page  line@.3  line@.5  word@.5  line IoU")
    for name, ways in result["ocr"]["sets"].items():
        for way, figures in ways.items():
            word = figures.get("word", {}).get("recall@0.5", float("nan"))
            line = figures["line"]
            print(
                f"{name:16s}{way:34s}{figures['cer_in_place']:12.4f}{figures.get('cer_of_page', float('nan')):9.4f}"
                f"{line['recall@0.3']:9.3f}{line['recall@0.5']:9.3f}{word:9.3f}{line['mean_iou']:10.3f}"
            )
    for part in ("text checks", "boxes", "regrounding"):
        print(f"\n{part}")
        for name, figures in result[part].items():
            print(f"  {name}: {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pages", type=int, default=6, help="pictures of each of the four sets of documents and charts"
    )
    parser.add_argument("--scenes", type=int, default=25)
    parser.add_argument("--nano-scenes", type=int, default=35)
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "engine_quality")
    args = parser.parse_args()
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    result["setting"] = {
        **{name: value for name, value in vars(args).items() if name != "out"},
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        **conditions(PACKAGES),
    }
    write_figures(result, args.out)
    print_table(result)


if __name__ == "__main__":
    main()
