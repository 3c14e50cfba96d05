"""What happens to a picture between the printer or the lens and the file: noise, blur, uneven light, JPEG, a small
rotation.

Only the rotation moves anything; it comes with the matrix that carries points along.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageFilter

Affine = tuple[float, float, float, float, float, float]


def photograph(rng: random.Random, image: Image.Image, strength: float) -> tuple[Image.Image, int]:
    """Light, blur and noise in proportion to `strength` (0: none, 1: strong); sizes and places stay.

    Returns the picture and the JPEG quality at which to store it; 0 means without loss.
    """
    if strength <= 0:
        return image, 0
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(64))
    height, width = pixels.shape[:2]
    slope_y, slope_x = (rng.uniform(-30, 30) * strength for _ in range(2))
    light = slope_y * np.linspace(-0.5, 0.5, height)[:, None] + slope_x * np.linspace(-0.5, 0.5, width)[None, :]
    pixels = pixels * rng.uniform(1 - 0.15 * strength, 1.0) + light[..., None].astype(np.float32)
    pixels += noise.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0, 8) * strength)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    radius = rng.uniform(0, 0.8) * strength
    if radius > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    return image, rng.randint(int(95 - 35 * strength), 95)


def rotation(degrees: float, size: tuple[int, int]) -> Affine:
    """The matrix (a, b, c, d, e, f) that takes a point x, y to a x + b y + c, d x + e y + f: a turn about the centre
    of the picture.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = size[0] / 2, size[1] / 2
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


def rotate(image: Image.Image, degrees: float, fill: tuple[int, int, int]) -> Image.Image:
    """Turn a picture about its centre without changing its size, by the matrix of `rotation`; corners are filled."""
    back = rotation(-degrees, image.size)
    return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=fill)


def carry(points: np.ndarray, matrix: Affine) -> np.ndarray:
    """Points (n, 2) in pixels taken along by the matrix."""
    a, b, c, d, e, f = matrix
    return points @ np.array([[a, d], [b, e]]) + np.array([c, f])
