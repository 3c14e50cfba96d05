"""What a micro-batch holds on its way from the loader to the model, and what the model's forward gets of it."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import torch

from finevit_training.data.packing import may_pack_rows
from finevit_vl.packed_attention import plain_name

# Everything else in a batch is for the trainer.
FORWARD_KEYS = ("input_ids", "labels", "attention_mask", "position_ids", "segments", "pixel_values", "image_grid_thw")


class Batch(TypedDict):
    """A micro-batch as it leaves the loader. Rows are samples, or several samples each when packed.

    Attributes:
        input_ids: (rows, length) int64.
        labels: (rows, length) int64; `input_ids` where the assistant speaks, IGNORE_INDEX elsewhere.
        pixel_values: (patches of all pictures, channels·patch²) float32, patches in 2x2-merge order.
        image_grid_thw: (pictures, 3) int64: frames, rows and columns of patches.
        attention_mask: (rows, length) int64, 1 on tokens and 0 on padding; padded batches only.
        position_ids: (rows, length) int64, from 0 again at every sample; packed batches only.
        segments: (segments, 4) int32: start, length, prefix start and prefix length of each run of tokens that sees
            its prefix and itself alone, in tokens of the flattened batch; goes without attention_mask and turn_ids.
            The model reads it on the host: on an accelerator that costs a synchronisation.
        turn_ids: (rows, length) int16: 0 on the picture and what stands before it, 1, 2, ... on the turns, -1 on
            padding; batches of isolated turns only, which have no attention_mask.
        lengths: (samples,) int64, tokens of each sample.
        ids: the samples' record ids.
        epochs: the pass over the data that each sample is in.
        skipped: (record id, reason) of every record or part of a record that could not be used.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    attention_mask: NotRequired[torch.Tensor]
    position_ids: NotRequired[torch.Tensor]
    segments: NotRequired[torch.Tensor]
    turn_ids: NotRequired[torch.Tensor]
    lengths: torch.Tensor
    ids: list[str]
    epochs: list[int]
    skipped: list[tuple[str, str]]


def model_inputs(batch: Mapping[str, Any], attention: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of FineViT-VL's forward for a batch, whose tensors lie on the model's device.

    For isolated turns the mask is made here and not by the loader: `turn_ids` are length times smaller than it.

    Args:
        batch: see `Batch`.
        attention: the language model's attention implementation.
        dtype: what attention is computed in.

    Raises:
        ValueError: the attention cannot keep the turns, or the samples of several packed rows, apart.
    """
    inputs = {key: batch[key] for key in FORWARD_KEYS if key in batch}
    if "segments" in inputs:
        return inputs
    if "turn_ids" in batch:
        if plain_name(attention) not in ("sdpa", "eager"):
            raise ValueError(
                f"isolate_turns needs sdpa or eager attention in the language model, which has {attention!r}: set "
                'attn_implementation, e.g. to {"text_config": "sdpa"}, or leave isolate_turns out'
            )
        turn_ids = batch["turn_ids"].long()
        inputs["attention_mask"] = isolated_turns_mask(turn_ids, dtype)
        inputs["position_ids"] = isolated_positions(turn_ids)
    elif "attention_mask" not in inputs and len(inputs["input_ids"]) > 1 and not may_pack_rows(attention):
        rows = len(inputs["input_ids"])
        raise ValueError(
            f"{attention!r} attention in the language model would let the samples of {rows} packed rows see each "
            "other: pack into a single row (SFTCollator's single_row), or use sdpa"
        )
    return inputs


def isolated_turns_mask(turn_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each turn attends to the picture and back to itself, not to other turns.

    Args:
        turn_ids: (rows, length) int64; 0 on the picture, 1, 2, ... on the turns, -1 on padding.
        dtype: of the result.

    Returns:
        (rows, 1, length, length), 0 where seen and the type's lowest number elsewhere, which eager attention adds and
        sdpa takes as it is.
    """
    asking, seen = turn_ids[:, :, None], turn_ids[:, None, :]
    visible = ((seen == 0) | (seen == asking)).tril_()
    mask = torch.zeros(visible.shape, dtype=dtype, device=turn_ids.device)
    return mask.masked_fill_(visible.logical_not_(), torch.finfo(dtype).min)[:, None]


def isolated_positions(turn_ids: torch.Tensor) -> torch.Tensor:
    """The position of every token, (rows, length) int64, if its turn were the only one."""
    running = torch.arange(turn_ids.shape[1], device=turn_ids.device).expand_as(turn_ids)
    picture = (turn_ids == 0).sum(-1, keepdim=True)
    starts = torch.ones_like(turn_ids, dtype=torch.bool)
    starts[:, 1:] = turn_ids[:, 1:] != turn_ids[:, :-1]
    turn_start = torch.where(starts, running, 0).cummax(-1).values
    return torch.where(turn_ids == 0, running, running - turn_start + picture)
