"""Pictures of rows: how many patches they have, decoding them for what the model sees, and patches of bytes."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from finecap.pictures import BadPicture, open_reduced
from finecap.sources.rows import Size
from finevit_training.data.bad_records import UnusableRecord


def num_patches(image_processor: Any, size: Size) -> int:
    """Patches of a picture of this width and height.

    Raises:
        UnusableRecord: no size in the budget of pixels fits it.
    """
    try:
        return image_processor.get_number_of_image_patches(size[1], size[0])
    except ValueError as error:
        raise UnusableRecord(f"picture cannot be processed: {error}") from error


def decoded(image_processor: Any, data: bytes, size: Size, reduced: bool = True) -> Image.Image:
    """A picture, upright RGB.

    Args:
        size: width and height that the row says.
        reduced: a large JPEG may come reduced to what the model sees.

    Raises:
        UnusableRecord: it cannot be decoded, or has another size.
    """
    target = image_processor.resized_size(size[1], size[0])
    # The processor sizes the picture once more, and a narrow budget of pixels gives another size than this.
    reduced = reduced and image_processor.resized_size(*target) == target
    try:
        return open_reduced(data, image_processor.max_image_pixels, size, target[::-1] if reduced else size)
    except BadPicture as error:
        raise UnusableRecord(f"picture cannot be used: {error}") from error


def patches_of_bytes(image_processor: Any, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
    """`pixel_values` (uint8) and `image_grid_thw` of some pictures, or of none, see `Batch`."""
    if images:
        return dict(image_processor.as_bytes(images))
    return {
        "pixel_values": torch.zeros(0, 3 * image_processor.patch_size**2, dtype=torch.uint8),
        "image_grid_thw": torch.zeros(0, 3, dtype=torch.int64),
    }


def size_facts(image_processor: Any) -> dict[str, Any]:
    """Everything that decides into how many patches pictures are cut, in values of JSON."""
    names = ("patch_size", "merge_size", "max_image_pixels")
    return {name: getattr(image_processor, name) for name in names} | dict(image_processor.size)
