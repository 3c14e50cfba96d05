"""A picture of what stage I has learnt: pictures, what the model sees of them, and its predictions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from modeling_finevit.patches import unpack_image
from modeling_finevit.pretraining.masked import LAYER_NORM_EPS, normalize_targets

CELL, GAP, TITLE = 224, 8, 22  # pixels
GREY = 160  # of masked patches


class Shown(NamedTuple):
    """Pictures to draw, packed: T patches, D width of the targets.

    Attributes:
        pixels: (T, 3·patch²) uint8.
        image_grid_thw: (pictures, 3).
        masked: (T,) bool.
        targets, prediction: (T, D) float32; targets before `target_norm`, the prediction as the head gives it.
        target_norm: see `FineViTConfig`.
        merge_size: of the model.
    """

    pixels: torch.Tensor
    image_grid_thw: torch.Tensor
    masked: torch.Tensor
    targets: torch.Tensor
    prediction: torch.Tensor
    target_norm: str
    merge_size: int


def draw_pixels(shown: Shown, scaling: tuple[Any, Any, float | None]) -> Image.Image:
    """Each picture, what the model sees of it, and its predictions: of the masked patches, and of all.

    As in MAE the mean and deviation that a predicted patch lacks are those of the true one.

    Args:
        scaling: how bytes became targets, see `scale_patches`.
    """
    predicted = _as_bytes(_with_lost_scale(shown), scaling)
    pasted = torch.where(shown.masked[:, None], predicted, shown.pixels)
    columns = {
        "picture": shown.pixels,
        "seen": _seen(shown),
        "masked patches predicted": pasted,
        "all predicted": predicted,
    }
    return _table({title: _pictures(shown, patches) for title, patches in columns.items()})


def draw_features(shown: Shown) -> Image.Image:
    """Each picture, what the model sees of it, and the teacher's and the predicted features as colours: their first
    three principal components, which are the teacher's features' over all these pictures.
    """
    targets = normalize_targets(shown.targets, shown.target_norm)
    prediction = F.normalize(shown.prediction, dim=-1) if shown.target_norm == "l2" else shown.prediction
    target_colours, predicted_colours = _principal_colours(targets, prediction)
    columns = {
        "picture": _pictures(shown, shown.pixels),
        "seen": _pictures(shown, _seen(shown)),
        "teacher's features": _pictures(shown, target_colours),
        "predicted": _pictures(shown, predicted_colours),
    }
    return _table(columns)


def _seen(shown: Shown) -> torch.Tensor:
    return torch.where(shown.masked[:, None], GREY, shown.pixels)


def _with_lost_scale(shown: Shown) -> torch.Tensor:
    """The predicted pixels with what `target_norm` took away."""
    prediction, targets = shown.prediction, shown.targets
    if shown.target_norm == "layer_norm":
        mean = targets.mean(-1, keepdim=True)
        variance = targets.var(-1, keepdim=True, correction=0)
        return prediction * (variance + LAYER_NORM_EPS).sqrt() + mean
    if shown.target_norm == "l2":
        return F.normalize(prediction, dim=-1) * targets.norm(dim=-1, keepdim=True)
    return prediction


def _as_bytes(pixels: torch.Tensor, scaling: tuple[Any, Any, float | None]) -> torch.Tensor:
    """The way back from `scale_patches`."""
    mean, std, factor = scaling
    channels = pixels.unflatten(1, (3, -1))
    if mean is not None and std is not None:
        mean, std = (torch.tensor(values).expand(3)[:, None] for values in (mean, std))
        channels = channels * std + mean
    return (channels / (factor or 1)).round().clamp(0, 255).flatten(1).to(torch.uint8)


def _principal_colours(targets: torch.Tensor, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, 3) uint8 of both, on one scale, which leaves the outermost hundredths out."""
    mean = targets.mean(0)
    _, _, directions = torch.linalg.svd(targets - mean, full_matrices=False)
    directions = directions[:3]
    directions = directions * directions.sum(-1, keepdim=True).sign()  # of two opposite ones always the same
    projected = (targets - mean) @ directions.T
    low, high = projected.quantile(0.01, dim=0), projected.quantile(0.99, dim=0)

    def colours(features: torch.Tensor) -> torch.Tensor:
        share = ((features - mean) @ directions.T - low) / (high - low).clamp(min=1e-12)
        return F.pad((share * 255).clamp(0, 255), (0, 3 - len(directions))).to(torch.uint8)

    return colours(targets), colours(prediction)


def _pictures(shown: Shown, patches: torch.Tensor) -> list[Image.Image]:
    """One picture for each grid, of patches of any side, as large as a cell."""
    lengths = shown.image_grid_thw.prod(-1).tolist()
    pictures = []
    for part, (_, rows, columns) in zip(patches.split(lengths), shown.image_grid_thw.tolist(), strict=True):
        picture = Image.fromarray(
            np.ascontiguousarray(unpack_image(part, rows, columns, shown.merge_size).permute(1, 2, 0))
        )
        scale = CELL / max(rows, columns)
        pictures.append(picture.resize((round(columns * scale), round(rows * scale)), _resampling(part)))
    return pictures


def _resampling(patches: torch.Tensor) -> Image.Resampling:
    return Image.Resampling.NEAREST if patches.shape[1] == 3 else Image.Resampling.BICUBIC


def _table(columns: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Pictures below their titles, those of a row side by side."""
    rows = list(zip(*columns.values(), strict=True))
    heights = [max(picture.height for picture in row) + GAP for row in rows]
    canvas = Image.new("RGB", (len(columns) * (CELL + GAP) + GAP, TITLE + GAP + sum(heights)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for number, title in enumerate(columns):
        draw.text((GAP + number * (CELL + GAP), GAP // 2), title, fill="black", font=font)
    for row, top in zip(rows, np.cumsum([TITLE + GAP, *heights[:-1]]).tolist(), strict=True):
        for number, picture in enumerate(row):
            canvas.paste(picture, (GAP + number * (CELL + GAP), top))
    return canvas
