"""Pass 2: drop small, long, blurred, badly exposed and colourless pictures; documents take their own branch.

What is measured is kept in columns, so that thresholds can be chosen anew from the outputs alone. All of it is taken
from the picture shrunk to a short side of 448 pixels, so that a threshold does not depend on the resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.pictures import BadPicture, opened, shrunk_rgb

COLUMNS = pa.schema(
    [
        ("branch", pa.string()),  # "photo" or "document"
        ("sharpness", pa.float32()),  # variance of the Laplacian of 8-bit luminance
        ("luminance", pa.float32()),  # mean, 0 to 1
        ("dark", pa.float32()),  # share of pixels with luminance at most 5 of 255
        ("bright", pa.float32()),  # share of pixels with luminance at least 250 of 255
        ("saturation", pa.float32()),  # mean of HSV's S, 0 to 1
        ("paper", pa.float32()),  # largest share of pixels within 8 of one light luminance (160 or more of 255)
        ("flat", pa.float32()),  # share of pixels that differ by less than 3 of 255 from both next neighbours
        ("detail", pa.float32()),  # variance of the Laplacian over that of the luminance (plus 100)
    ]
)
MEASURED_SIDE = 448
CLIPPED_DARK, CLIPPED_BRIGHT = 5, 250
LIGHT, PAPER_WIDTH, FLAT_STEP, NOISE_VARIANCE = 160, 8, 3, 100.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Thresholds. The first three are FineViT's; the others are ours, chosen on the photographs that scikit-image,
    scikit-learn and Matplotlib ship and on the embedded corpus.

    Attributes:
        min_short_side, min_aspect, max_aspect: FineViT, filter of FineCap-450M; pixels, and width / height.
        min_sharpness: photographs below are blurred: a Gaussian blur of 2 pixels at a short side of 448 brought all of
            19 photographs under 30.
        min_luminance, max_luminance, max_dark, max_bright: photographs outside are under- or overexposed. The shares
            are high enough for objects on a white or black ground.
        min_saturation: photographs below are colourless; 0 keeps grey photographs.
        document_paper, document_flat, document_detail: a picture that reaches all three is document-like (a page, a
            form, a chart): it must only be large enough. More than 1 for the first turns the branch off.
    """

    min_short_side: int = 448
    min_aspect: float = 1 / 3
    max_aspect: float = 3.0
    min_sharpness: float = 30.0
    min_luminance: float = 0.06
    max_luminance: float = 0.94
    max_dark: float = 0.85
    max_bright: float = 0.85
    min_saturation: float = 0.0
    document_paper: float = 0.3
    document_flat: float = 0.5
    document_detail: float = 0.1


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """Measures and branch of each picture, and a reject for those that fail a rule. A picture that cannot be decoded
    is rejected here, too: the pass before decodes JPEGs in grey, for which some need less than for colours.
    """
    pixels = context.settings.options["ingest"].max_pixels
    for row in rows:
        try:
            with opened(row["image"], pixels) as image:
                found = measures(shrunk_rgb(image, MEASURED_SIDE))
        except BadPicture as error:
            yield {"key": row["key"], "reject": str(error)}
            continue
        found["branch"] = branch(found, options)
        yield {"key": row["key"], **found, "reject": verdict(row["width"], row["height"], found, options)}


def measures(image: Image.Image) -> Row:
    """The figures of `COLUMNS` except the branch, of an RGB picture that is shrunk to its measured size."""
    grey = image.convert("L")
    values = np.asarray(grey).astype(np.int16)
    shares = np.asarray(grey.histogram(), dtype=np.float64) / values.size
    saturations = np.asarray(image.convert("HSV").histogram()[256:512], dtype=np.float64) / values.size
    near = np.convolve(shares, np.ones(2 * PAPER_WIDTH + 1), mode="same")
    luminance = float(shares @ np.arange(256))
    variance = float(shares @ np.arange(256) ** 2) - luminance**2
    sharpness = _laplacian_variance(values)
    return {
        "sharpness": sharpness,
        "luminance": luminance / 255,
        "dark": float(shares[: CLIPPED_DARK + 1].sum()),
        "bright": float(shares[CLIPPED_BRIGHT:].sum()),
        "saturation": float(saturations @ np.arange(256) / 255),
        "paper": float(near[LIGHT:].max()),
        "flat": _flat_share(values),
        "detail": sharpness / (variance + NOISE_VARIANCE),
    }


def _laplacian_variance(values: np.ndarray) -> float:
    if min(values.shape) < 3:
        return 0.0
    centre = values[1:-1, 1:-1]
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return float((around - 4 * centre).var(dtype=np.float32))


def _flat_share(values: np.ndarray) -> float:
    if min(values.shape) < 2:
        return 0.0
    across = np.abs(values[:-1, 1:] - values[:-1, :-1]) < FLAT_STEP
    down = np.abs(values[1:, :-1] - values[:-1, :-1]) < FLAT_STEP
    return float((across & down).mean())


def branch(found: Row, options: Options) -> str:
    """ "document" for a light, even ground with fine structure on it, else "photo"."""
    limits = {"paper": options.document_paper, "flat": options.document_flat, "detail": options.document_detail}
    return "document" if all(found[name] >= limit for name, limit in limits.items()) else "photo"


def verdict(width: int, height: int, found: Row, options: Options) -> str | None:
    """The first rule that a picture breaks, as a reject reason."""
    if min(width, height) < options.min_short_side:
        return f"too small: short side {min(width, height)} < {options.min_short_side}"
    if found["branch"] == "document":
        return None
    if not options.min_aspect <= width / height <= options.max_aspect:
        return f"aspect ratio: {width / height:.2f} not in {options.min_aspect:.2f} to {options.max_aspect:.2f}"
    rules = (
        ("underexposed", "luminance", options.min_luminance, np.inf),
        ("underexposed", "dark", 0.0, options.max_dark),
        ("overexposed", "luminance", 0.0, options.max_luminance),
        ("overexposed", "bright", 0.0, options.max_bright),
        ("blurred", "sharpness", options.min_sharpness, np.inf),  # after exposure: a dark picture has no edges either
        ("colourless", "saturation", options.min_saturation, np.inf),
    )
    for kind, name, low, high in rules:
        if not low <= found[name] <= high:
            limit = f"< {low:g}" if found[name] < low else f"> {high:g}"
            return f"{kind}: {name} {found[name]:.3g} {limit}"
    return None
