"""What a micro-batch holds on its way from the loader to the model, and what the model's forward gets of it."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import torch

# Everything else in a batch is for the trainer.
FORWARD_KEYS = ("input_ids", "labels", "position_ids", "pixel_values", "image_grid_thw", "segments")


class Batch(TypedDict):
    """A micro-batch as it leaves the loader: packs one after the other in a single sequence of tokens.

    Attributes:
        input_ids: (1, tokens) int64.
        labels: (1, tokens) int64; `input_ids` where the assistant speaks, IGNORE_INDEX elsewhere.
        position_ids: (1, tokens) int64, from 0 again at every sample; an isolated turn goes on after the picture.
        segments: (segments, 4) int32 array, which stays on the host: first token and length, then first token and
            length of what stands before it and is seen too. A sample is a segment that sees nothing else (0, 0); with
            isolated turns it is a picture and then turns that see the picture and themselves. Tokens in no segment are
            padding.
        pixel_values: (patches of all pictures, channels·patch²) uint8, patches in 2x2-merge order. They become floats
            on the device: a loader process sends a quarter of the memory.
        image_grid_thw: (pictures, 3) int64: frames, rows and columns of patches.
        lengths: (samples,) int64, tokens of each sample.
        ids: the samples' ids.
        epochs: the pass over the data that each sample is in.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    segments: np.ndarray
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    lengths: torch.Tensor
    ids: list[str]
    epochs: list[int]


class MaskedBatch(TypedDict):
    """A micro-batch of stage I: pictures one after the other in a single sequence of patches.

    Attributes:
        pixel_values, image_grid_thw: see `Batch`.
        bool_masked_pos: (patches,) bool.
        teacher_pixel_values: (patches, channels·patch²) uint8, the same grids cut from the pictures at the size that a
            teacher of another patch size sees; None where it sees `pixel_values`.
        lengths: (pictures,) int64, patches of each picture; none where the batch is a blank, because all its packs are
            empty.
        ids, epochs: of the row that each picture is from.
    """

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    bool_masked_pos: torch.Tensor
    teacher_pixel_values: torch.Tensor | None
    lengths: torch.Tensor
    ids: list[str]
    epochs: list[int]


class RegionBatch(TypedDict):
    """Regions of the pictures of a batch with their captions, in the order of the pictures.

    Attributes:
        boxes: (regions, 4) float32, pixels of the stored picture: x1, y1, x2, y2.
        image_index: (regions,) int64, number of the picture in the batch.
        image_sizes: (pictures, 2) int64, height and width of the stored pictures.
        input_ids, caption_ids: of the captions, see `PairBatch`.
    """

    boxes: torch.Tensor
    image_index: torch.Tensor
    image_sizes: torch.Tensor
    input_ids: torch.Tensor
    caption_ids: torch.Tensor


class PairBatch(TypedDict):
    """A micro-batch of stage II: picture i belongs to caption i.

    Attributes:
        pixel_values, image_grid_thw: see `Batch`.
        input_ids: (pairs, text_length) int64, padded on the right.
        caption_ids: (pairs,) int64, equal where captions are.
        regions: None where the recipe asks for none.
        lengths: (pairs,) int64, tokens of each caption.
        ids, epochs: see `Batch`.
    """

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    input_ids: torch.Tensor
    caption_ids: torch.Tensor
    regions: RegionBatch | None
    lengths: torch.Tensor
    ids: list[str]
    epochs: list[int]


def model_inputs(batch: Mapping[str, Any], image_processor: Any) -> dict[str, Any]:
    """The arguments of FineViT-VL's forward for a batch, with `pixel_values` as the image processor scales them."""
    inputs = {key: batch[key] for key in FORWARD_KEYS}
    inputs["image_grid_thw"] = host_grid(batch)
    return inputs | {"pixel_values": image_processor.from_bytes(inputs["pixel_values"])}


def host_grid(batch: Mapping[str, Any]) -> np.ndarray:
    """`image_grid_thw` of a batch as models get it in training. They read it on the host, and DDP and FSDP move every
    tensor among the arguments to the device: each forward would wait for the device to read it back.
    """
    return batch["image_grid_thw"].cpu().numpy()
