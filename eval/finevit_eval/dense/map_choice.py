"""Which maps there are of pictures: those that the model has, and those that are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finevit_eval.dense.maps import box_mean, cosines, patch_under, principal_components
from finevit_eval.dense.patch_encoder import PatchEncoder


@dataclass(frozen=True)
class Asked:
    """What is to be shown besides the maps that every model has.

    Attributes:
        phrase: every patch's cosine with this text.
        point: x, y in pixels of the first picture; every patch's cosine with the patch under it.
        box: x1, y1, x2, y2 likewise; with the mean of the box.
    """

    phrase: str | None = None
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Map:
    """A map of every picture.

    Attributes:
        name: ends the names of its files.
        title, note: what it shows, for people; in short, and how it is read.
        values: `(R, C)` of each picture, or `(R, C, 3)` for red, green and blue.
        mark: the point or box in the first picture that it was asked by.
    """

    name: str
    title: str
    note: str
    values: list[torch.Tensor]
    mark: Sequence[float] = ()


def find_maps(
    encoder: PatchEncoder, features: Sequence[torch.Tensor], size: tuple[int, int], asked: Asked
) -> list[Map]:
    """The maps of pictures that the model has and that are asked for.

    Args:
        features: `(R, C, D)` of each picture.
        size: width and height of the first picture in pixels.
    """
    components, shares = principal_components(features)
    explained = ", ".join(f"{share:.0%}" for share in shares)
    note = f"Red, green and blue are the first three components of all patches shown here; they explain {explained}."
    maps = [Map("pca", "Principal components", note, components)]
    if encoder.pools_by_attention:
        note = "How much the pooling looks at a patch: 1 is an even share. Mean over its heads."
        maps.append(Map("attention", "Attention pooling", note, [encoder.attention(one) for one in features]))
    if asked.phrase is not None:
        text = encoder.phrase(asked.phrase)
        values = cosines([encoder.embedded(one) for one in features], text)
        note = "Cosine of the text with each patch, pooled by itself."
        maps.append(Map("phrase", f"“{asked.phrase}”", note, values))
    if asked.point is not None:
        row, column = patch_under(asked.point, size, features[0].shape[:2])
        values = cosines(features, features[0][row, column])
        note = f"Cosine of each patch with the one in row {row}, column {column} of the first picture."
        maps.append(Map("point", "Like the patch under ({:g}, {:g})".format(*asked.point), note, values, asked.point))
    if asked.box is not None:
        values = cosines(features, box_mean(features[0], asked.box, size))
        note = "Cosine of each patch with the mean of the box in the first picture."
        maps.append(Map("box", "Like the box ({:g}, {:g}, {:g}, {:g})".format(*asked.box), note, values, asked.box))
    return maps
