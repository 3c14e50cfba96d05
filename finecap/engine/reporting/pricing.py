"""What a run will cost, before anything is paid: images, requests, tokens, dollars, GPU-hours and disk.

Every figure is a product of the recipe, the number of images and the assumptions below, each with its source. Names,
sizes, parquet footers and archive headers are read, never a picture, and no endpoint is asked.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from dataclasses import dataclass as plain_dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.ensemble import Captioner
from finecap.engine.captioners.prompts import FENCE_NOTE, Templates, load_templates
from finecap.engine.captioners.spend import microdollars
from finecap.engine.captioners.tokens import BYTES_PER_TOKEN, PIXELS_PER_TOKEN, TYPICAL_PIXELS
from finecap.engine.passes.verify import READ_BACK_LINES, READ_BACK_PROMPT
from finecap.engine.recipe import Recipe
from finecap.shards import tar as archives
from finecap.shards.plan import MAX_SCANNED_ARCHIVES, Shard, plan_shards

# Archives that are counted; the pictures in any more are estimated from their sizes.
COUNTED_ARCHIVES = 20
# Of a captioner that grounds: the question with its phrases, and a box with its label as JSON. Of a line of text: its
# picture, and its letters.
GROUNDING_TOKENS, BOX_TOKENS, LINE_TOKENS = 100, 25, 20
SIZE_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?:-a(\d+(?:\.\d+)?)b)?(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Assumptions:
    """What is not in the recipe.

    "FineViT" is the paper's account of FineCap-450M: 80 M images, 63 M global captions, 226 M region captions, 142 M
    and 86 M text boxes in photos and documents.

    Attributes:
        kept_share: of the images, after filter and deduplication. FineViT's filter drops 3 %; duplicates are not told.
        document_share: of the kept images. FineViT: 80 - 63 of 80, if each photo has one global caption.
        pixels: of a picture on average. FineViT's third stage is trained at about 1000 x 1000.
        regions_per_photo: boxes with a local caption. FineViT: 226 / 63.
        lines_per_photo, lines_per_document: of text. FineViT: 142 / 63 and 86 / 17.
        dense_tokens, local_tokens: length of such a caption. FineViT.
        style_share: length of captions of other styles, as a share of the template's `max_tokens`. Assumed: that of
            dense captions (211 of 640).
        crop_share: of the picture that a box covers, on average. Assumed.
        characters_per_token: of prompts. Measured: those that ship, in the tokens of Qwen's own tokenizer.
        billion_parameters: of captioners whose model name does not say ("...-32B"; of "30B-A3B", the 3 that work).
        gpu_tflops: of one GPU. NVIDIA's data sheet for the H100 SXM, bfloat16, dense.
        prompt_utilisation, completion_utilisation: share of that which vLLM turns into tokens, at two operations for
            each parameter and token. Assumed: large batches without a prefix cache. They make 6,200 prompt and 1,200
            completion tokens/s of a 32B model, 24,700 and 4,900 of an 8B model.
        detections_per_gpu_second: of a Grounding DINO of the Swin-T size in PyTorch. Assumed.
        ocr_core_seconds: of processor time for a picture. Measured on one core: 0.33 to 0.71 s for six of
            scikit-image's example pictures at a million pixels, with 0 to 7 lines of text. Full pages take longer.
        image_core_seconds: of processor time for all else done to a picture. Measured: 0.04 s for a JPEG of a million
            pixels in ingest, filter, dedup and pack. The rest is for scaling and sending it, and assumed.
        text_bytes: of captions, boxes and texts of an image in all passes. Assumed.
    """

    kept_share: float = Field(default=0.97, ge=0, le=1)
    document_share: float = Field(default=17 / 80, ge=0, le=1)
    pixels: float = Field(default=TYPICAL_PIXELS, gt=0)
    regions_per_photo: float = Field(default=226 / 63, ge=0)
    lines_per_photo: float = Field(default=142 / 63, ge=0)
    lines_per_document: float = Field(default=86 / 17, ge=0)
    dense_tokens: float = Field(default=211, ge=0)
    local_tokens: float = Field(default=57, ge=0)
    style_share: float = Field(default=211 / 640, ge=0)
    crop_share: float = Field(default=0.1, ge=0, le=1)
    characters_per_token: float = Field(default=BYTES_PER_TOKEN, gt=0)
    billion_parameters: float = Field(default=8, gt=0)
    gpu_tflops: float = Field(default=989, gt=0)
    prompt_utilisation: float = Field(default=0.4, gt=0, le=1)
    completion_utilisation: float = Field(default=0.08, gt=0, le=1)
    detections_per_gpu_second: float = Field(default=10, gt=0)
    ocr_core_seconds: float = Field(default=0.5, ge=0)
    image_core_seconds: float = Field(default=0.1, ge=0)
    text_bytes: float = Field(default=8000, ge=0)


class Work(NamedTuple):
    """What a pass, or a part of it, asks of all captioners by weight (or of the one that is named), of detectors and
    of processors, for all images.
    """

    name: str
    requests: float = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    detections: float = 0
    core_seconds: float = 0
    captioner: str | None = None


@plain_dataclass
class CaptionerPrice:
    """A captioner's part of the run; `gpu_hours` if you serve it, `dollars` if you are billed for it.

    Attributes:
        billion_parameters: of the captioner, for the estimate of GPU-hours.
    """

    name: str
    share: float
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float
    gpu_hours: float
    billion_parameters: float


@plain_dataclass
class Price:
    """What a run is expected to cost.

    Attributes:
        images: in the input; `counted` is False if their number is an estimate.
        passes: by name, with `requests`, `prompt_tokens`, `completion_tokens`, `detections`, `core_hours`.
        gpu_hours: of captioners and detector together.
        disk_bytes: of the run's folder when it is finished.
        unpriced: passes with a function of your own, whose work nobody here can know.
        without_price: captioners that are asked and have no price in the recipe, among others that have one; their
            work is in no sum of dollars.
        over_budget: of "tokens" and "dollars", which exceed the recipe's budget.
        assumptions: of this estimate.
    """

    images: int
    counted: bool
    shards: int
    passes: dict[str, dict[str, float]]
    captioners: list[CaptionerPrice]
    requests: int
    tokens: int
    dollars: float
    gpu_hours: float
    core_hours: float
    disk_bytes: int
    unpriced: list[str]
    without_price: list[str]
    over_budget: list[str]
    assumptions: dict[str, float]


def price(recipe: Recipe, source: Path, assumptions: Assumptions | None = None) -> Price:
    """Estimate what captioning `source` will cost.

    Raises:
        ValueError: the input cannot be read.
    """
    a = assumptions or Assumptions()
    shards = plan_shards(source, recipe.rows_per_shard)
    images, counted = count_images(shards)
    work = _work(recipe, images, a)
    captioners = _by_captioner(recipe.captioners, work, a)
    detector_hours = sum(one.detections for one in work) / a.detections_per_gpu_second / 3600
    tokens = round(sum(one.prompt_tokens + one.completion_tokens for one in work))
    dollars = sum(one.dollars for one in captioners)
    limits = {"tokens": (tokens, recipe.budget.tokens), "dollars": (dollars, recipe.budget.dollars)}
    return Price(
        images=images,
        counted=counted,
        shards=len(shards),
        passes={name: _figures([one for one in work if one.name == name]) for name in recipe.passes},
        captioners=captioners,
        requests=round(sum(one.requests for one in work)),
        tokens=tokens,
        dollars=dollars,
        gpu_hours=sum(one.gpu_hours for one in captioners) + detector_hours,
        core_hours=sum(one.core_seconds for one in work) / 3600,
        disk_bytes=_disk(recipe, shards, images, a),
        unpriced=[name for name in recipe.passes if name in recipe.functions],
        without_price=_without_price(recipe.captioners, captioners),
        over_budget=[name for name, (cost, limit) in limits.items() if limit is not None and cost > limit],
        assumptions=asdict(a),
    )


def assumptions_from(values: Mapping[str, Any]) -> Assumptions:
    """The defaults with some replaced.

    Raises:
        ValueError: an unknown name or a value out of range; the message names it.
    """
    try:
        return TypeAdapter(Assumptions).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(one.name for one in fields(Assumptions))
        raise ValueError(
            f"assumption {first['loc'][0]}: {first['msg']}, got {first['input']!r}; known are {known}"
        ) from None


def count_images(shards: Sequence[Shard]) -> tuple[int, bool]:
    """Number of images, and whether they were counted (else estimated from the sizes of archives)."""
    known = sum(len(shard.files) for shard in shards if shard.kind == "folder")
    known += sum(shard.stop - shard.start for shard in shards if shard.stop is not None)
    open_ended = [shard for shard in shards if shard.kind != "folder" and shard.stop is None]
    if len(open_ended) <= MAX_SCANNED_ARCHIVES:
        return known + sum(_count(shard) for shard in open_ended), True
    sample = open_ended[:: ceil(len(open_ended) / COUNTED_ARCHIVES)]
    per_byte = sum(_count(shard) for shard in sample) / _bytes(sample)
    return known + round(per_byte * _bytes(open_ended)), False


def _count(shard: Shard) -> int:
    return archives.count_samples(Path(shard.root, shard.files[0])) - shard.start


def _bytes(shards: Sequence[Shard]) -> int:
    """Size of the input files."""
    paths = {Path(shard.root, name) for shard in shards for name in shard.files}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _work(recipe: Recipe, images: int, a: Assumptions) -> list[Work]:
    kept = images * a.kept_share
    documents = kept * a.document_share
    amounts: dict[str, Callable[[Recipe, float, float, Assumptions], list[Work]]]
    amounts = {"recaption": _recaption, "boxes": _boxes, "local_captions": _local_captions, "verify": _verify}
    found = []
    for name in recipe.passes:
        if name in recipe.functions:
            found.append(Work(name))
        elif name in amounts:
            found += amounts[name](recipe, kept - documents, documents, a)
        elif name == "ocr":
            found.append(Work(name, core_seconds=kept * a.ocr_core_seconds))
        else:
            found.append(Work(name, core_seconds=images * a.image_core_seconds if name == "ingest" else 0))
    return found


def _recaption(recipe: Recipe, photos: float, documents: float, a: Assumptions) -> list[Work]:
    options = recipe.passes["recaption"]
    templates = load_templates(options.prompts, options.styles)
    prompt = completion = 0.0
    for style in options.styles:
        template = templates.styles[style]
        answer = a.dense_tokens if style == "dense" else template.max_tokens * a.style_share
        for count, wordings in ((photos, template.photo), (documents, template.document)):
            prompt += count * (_picture_tokens(options.max_side, a) + _text_tokens(wordings, templates, a))
            completion += count * answer
    return [Work("recaption", (photos + documents) * len(options.styles), prompt, completion)]


def _boxes(recipe: Recipe, photos: float, documents: float, a: Assumptions) -> list[Work]:
    options = recipe.passes["boxes"]
    pictures = photos + (documents if options.documents else 0)
    return [_grounding("boxes", options, pictures, a.regions_per_photo, a)]


def _grounding(name: str, options: Any, pictures: float, phrases: float, a: Assumptions) -> Work:
    """Looking for `phrases` in each picture, with the detector or the captioner of the section `boxes`."""
    if options.captioner is None:
        return Work(name, detections=pictures)
    requests = pictures * phrases if options.box_format == "finevit" else pictures
    found = pictures * phrases * BOX_TOKENS
    prompt = requests * (a.pixels / PIXELS_PER_TOKEN + GROUNDING_TOKENS)
    return Work(name, requests, prompt, found, captioner=options.captioner)


def _local_captions(recipe: Recipe, photos: float, documents: float, a: Assumptions) -> list[Work]:
    options = recipe.passes["local_captions"]
    templates = load_templates(options.prompts, local=True)
    assert templates.local is not None
    picture = _picture_tokens(options.max_side, a)
    shown = {"picture": picture, "crop": picture * a.crop_share}
    one = sum(shown[name] for name in templates.local.images) + a.dense_tokens
    one += _text_tokens(templates.local.object, templates, a) + len(FENCE_NOTE) / a.characters_per_token
    boxes = photos * a.regions_per_photo
    return [Work("local_captions", boxes, boxes * one, boxes * a.local_tokens)]


def _verify(recipe: Recipe, photos: float, documents: float, a: Assumptions) -> list[Work]:
    """Each local caption is looked for again, and of a share of the pictures each line is read back."""
    work = [Work("verify")]
    if "boxes" in recipe.passes and "boxes" not in recipe.functions and "local_captions" in recipe.passes:
        work.append(_grounding("verify", recipe.passes["boxes"], photos * a.regions_per_photo, 1, a))
    if "ocr" in recipe.passes and recipe.captioners:
        lines = photos * a.lines_per_photo + documents * min(a.lines_per_document, READ_BACK_LINES)
        lines *= recipe.passes["verify"].read_back_share
        prompt = LINE_TOKENS + len(READ_BACK_PROMPT) / a.characters_per_token
        work.append(Work("verify", lines, lines * prompt, lines * LINE_TOKENS))
    return work


def _picture_tokens(max_side: int, a: Assumptions) -> float:
    """Of a 4:3 picture of the assumed size, scaled down to `max_side` as the passes do."""
    return min(a.pixels, max_side**2 * 3 / 4) / PIXELS_PER_TOKEN


def _text_tokens(wordings: Sequence[str], templates: Templates, a: Assumptions) -> float:
    characters = sum(map(len, wordings)) / len(wordings) + len(templates.always)
    return characters / a.characters_per_token


def _by_captioner(captioners: Sequence[Captioner], work: Sequence[Work], a: Assumptions) -> list[CaptionerPrice]:
    weights = sum(one.weight for one in captioners) or 1  # all may be 0: one that only grounds
    return [_captioner_price(one, one.weight / weights, work, a) for one in captioners]


def _captioner_price(captioner: Captioner, share: float, work: Sequence[Work], a: Assumptions) -> CaptionerPrice:
    parts = [(share if one.captioner is None else float(one.captioner == captioner.name), one) for one in work]
    prompt = sum(part * one.prompt_tokens for part, one in parts)
    completion = sum(part * one.completion_tokens for part, one in parts)
    billions = billion_parameters(captioner.model) or a.billion_parameters
    seconds_per_token = 2 * billions * 1e9 / (a.gpu_tflops * 1e12)
    gpu_seconds = seconds_per_token * (prompt / a.prompt_utilisation + completion / a.completion_utilisation)
    return CaptionerPrice(
        name=captioner.name,
        share=share,
        requests=round(sum(part * one.requests for part, one in parts)),
        prompt_tokens=round(prompt),
        completion_tokens=round(completion),
        dollars=microdollars(captioner, prompt, completion) / 1e6,
        gpu_hours=gpu_seconds / 3600,
        billion_parameters=billions,
    )


def _without_price(captioners: Sequence[Captioner], prices: Sequence[CaptionerPrice]) -> list[str]:
    priced = {one.name for one in captioners if microdollars(one, 1, 1)}
    asked = [one.name for one in prices if one.requests]
    return [name for name in asked if name not in priced] if priced.intersection(asked) else []


def billion_parameters(model: str) -> float | None:
    """Parameters that work on each token, from names such as "Qwen3-VL-32B-Instruct" and "Qwen3-VL-30B-A3B"."""
    found = SIZE_IN_NAME.search(model)
    return float(found[2] or found[1]) if found else None


def _figures(work: Sequence[Work]) -> dict[str, float]:
    return {
        "requests": round(sum(one.requests for one in work)),
        "prompt_tokens": round(sum(one.prompt_tokens for one in work)),
        "completion_tokens": round(sum(one.completion_tokens for one in work)),
        "detections": round(sum(one.detections for one in work)),
        "core_hours": sum(one.core_seconds for one in work) / 3600,
    }


def _disk(recipe: Recipe, shards: Sequence[Shard], images: int, a: Assumptions) -> int:
    """The pictures twice, as ingested and as packed, and a third time in archives; texts beside them. The dataset
    folder links to what was packed; with several splits, or without hard links, it takes that space again.
    """
    copies = 3 if recipe.passes["pack"].webdataset else 2
    return round(copies * _bytes(shards) + images * a.text_bytes)


def format_price(price: Price) -> str:
    """The price for a terminal of 100 columns."""
    about = "" if price.counted else "about "
    lines = [
        f"{about}{price.images:,} images in {price.shards:,} shards",
        "",
        f"{'pass':<16}{'requests':>15}{'prompt tokens':>20}{'completion tokens':>20}{'detections':>14}{'core-h':>10}",
    ]
    for name, one in price.passes.items():
        lines.append(
            f"{name:<16}{one['requests']:>15,}{one['prompt_tokens']:>20,}{one['completion_tokens']:>20,}"
            f"{one['detections']:>14,}{_short(one['core_hours']):>10}"
        )
    lines += ["", f"{'captioner':<28}{'share':>7}{'requests':>15}{'tokens':>20}{'dollars':>14}{'GPU-h if served':>16}"]
    for captioner in price.captioners:
        tokens = captioner.prompt_tokens + captioner.completion_tokens
        dollars = "no price" if captioner.name in price.without_price else f"{captioner.dollars:,.2f}"
        lines.append(
            f"{captioner.name[:27]:<28}{captioner.share:>7.1%}{captioner.requests:>15,}{tokens:>20,}"
            f"{dollars:>14}{_short(captioner.gpu_hours):>16}"
        )
    lines += [
        "",
        f"in all: {price.requests:,} requests, {price.tokens:,} tokens, ${price.dollars:,.2f}, "
        f"{_short(price.gpu_hours)} GPU-hours,",
        f"        {_short(price.core_hours)} core-hours, {_short(price.disk_bytes / 1e9)} GB on disk",
    ]
    lines += [f"above the budget of the recipe: {name}; the run would stop there" for name in price.over_budget]
    if price.without_price:
        lines.append(f"not in the dollars: {', '.join(price.without_price)}, without a price in the recipe")
    if price.unpriced:
        lines.append(f"not in it: functions of your own for {', '.join(price.unpriced)}")
    figures = ", ".join(f"{name} {value:.4g}" for name, value in price.assumptions.items())
    return "\n".join([*lines, "", *textwrap.wrap(f"assumed: {figures}", 100)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
