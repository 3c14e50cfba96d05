# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT from the vision tower of Qwen2.5-VL, whose block is the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from .configuration_finevit import FineViTConfig
from .image_processing_pil_finevit import FineViTImageProcessorPil
from .modeling_finevit import FineViTModel

PROJECTOR_FILE = "projector.safetensors"
"""A projector beside an encoder's weights: the state of a FineViT-VL's `multi_modal_projector`."""


class ConvertedTower(NamedTuple):
    """What [`from_qwen2_5_vl`] returns.

    Attributes:
        model (`FineViTModel`): the encoder; its final norm is the norm (`ln_q`) of Qwen's merger.
        projector (`dict[str, torch.Tensor]`): the merger's MLP over the 2x2-merged `last_hidden_state`,
            `Linear(4h, 4h)`, GELU, `Linear(4h, out)`, as `linear_1.weight`, `linear_1.bias`, `linear_2.weight`,
            `linear_2.bias`: the keys of a FineViT-VL's `model.model.multi_modal_projector`.
    """

    model: FineViTModel
    projector: dict[str, torch.Tensor]

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes an encoder folder (config, weights, image processor) with the projector in `projector.safetensors`.

        ```python
        from_qwen2_5_vl("path/to/Qwen2.5-VL-3B-Instruct").save_pretrained("encoder")
        model = FineViTVLForConditionalGeneration.from_vision_text_pretrained("encoder", llm, projector="encoder")
        ```

        The projector is optional: it fits language models of Qwen's width and was trained with Qwen's own.
        """
        config = self.model.config
        self.model.save_pretrained(folder)
        sizes = {"patch_size": config.patch_size, "merge_size": config.spatial_merge_size}
        FineViTImageProcessorPil(**sizes).save_pretrained(folder)
        save_file(self.projector, Path(folder) / PROJECTOR_FILE, metadata={"format": "pt"})


def from_qwen2_5_vl(tower: nn.Module | str | Path) -> ConvertedTower:
    """Converts the vision tower of Qwen2.5-VL (arXiv 2502.13923) to FineViT.

    For still images `model(pixel_values, grid).last_hidden_state` equals the input of the merger's MLP, windows
    included. Qwen2.5-VL's image processor repeats each patch for two frames; FineViT's does not, and the two temporal
    halves of the patch embedding are summed.

    Args:
        tower: a `Qwen2_5_VisionTransformerPretrainedModel` (for a whole VLM, its `model.visual`), or a local folder
            with `config.json` and safetensors of the tower or of the whole Qwen2.5-VL (only the tower is read).

    Raises:
        ValueError: not such a tower, or a folder without its weights.
    """
    if isinstance(tower, nn.Module):
        config, state = getattr(tower, "config", None), tower.state_dict()
    else:
        config, state = _read_folder(Path(tower))
    if getattr(config, "fullatt_block_indexes", None) is None or "merger.ln_q.weight" not in state:
        raise ValueError(
            f"Expected the vision tower of Qwen2.5-VL, got {type(tower).__name__}. For a whole VLM pass "
            "`vlm.model.visual`, or its local folder."
        )
    finevit_config = _convert_config(config)
    with torch.device("meta"):
        model = FineViTModel(finevit_config)
    converted = dict(_convert_state(state, finevit_config))
    model.load_state_dict(converted, assign=True)
    model.rotary_emb = type(model.rotary_emb)(finevit_config)  # its buffer is in no state dict
    model.requires_grad_(True).eval()
    names = {"linear_1": "merger.mlp.0", "linear_2": "merger.mlp.2"}
    projector = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"].clone()
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    return ConvertedTower(model, projector)


def _convert_config(config: Any) -> FineViTConfig:
    rope_parameters = getattr(config, "rope_parameters", None) or {}
    return FineViTConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        num_channels=config.in_channels,
        patch_size=config.patch_size,
        spatial_merge_size=config.spatial_merge_size,
        hidden_act=config.hidden_act,
        rope_parameters={"rope_type": "axial", "rope_theta": rope_parameters.get("rope_theta", 10_000.0)},
        patch_embed_bias=False,
        window_size=config.window_size,
        fullatt_block_indexes=list(config.fullatt_block_indexes),
        initializer_range=config.initializer_range,
    )


def _convert_state(state: dict[str, torch.Tensor], config: FineViTConfig) -> Iterator[tuple[str, torch.Tensor]]:
    yield "patch_embed.weight", state["patch_embed.proj.weight"].sum(2).flatten(1)
    yield "norm.weight", state["merger.ln_q.weight"].clone()
    names = {
        "norm1.weight": "input_layernorm.weight",
        "norm2.weight": "post_attention_layernorm.weight",
        "attn.proj": "self_attn.o_proj",
        "mlp": "mlp",
    }
    for key, tensor in state.items():
        if not key.startswith("blocks."):
            continue
        _, layer, rest = key.split(".", 2)
        if rest.startswith("attn.qkv."):
            kind = rest.rpartition(".")[2]
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                part = _pair_neighbours(part, config.num_attention_heads) if name in "qk" else part.clone()
                yield f"layers.{layer}.self_attn.{name}_proj.{kind}", part
        else:
            theirs = next(name for name in names if rest.startswith(name))
            yield f"layers.{layer}.{names[theirs]}{rest.removeprefix(theirs)}", tensor.clone()


def _pair_neighbours(projection: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Qwen rotates channels (i, i + D/2) of a head together, FineViT (2i, 2i + 1): the same up to this order."""
    return projection.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _read_folder(folder: Path) -> tuple[Qwen2_5_VLVisionConfig, dict[str, torch.Tensor]]:
    """Config and the tower's tensors; of a whole VLM nothing else is read from disk."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; expected a local folder of Qwen2.5-VL or of its vision tower.")
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"} if not index.is_file() else set(json.loads(index.read_text())["weight_map"].values())
    state = {}
    for file in sorted(files):
        if not (folder / file).is_file():
            raise ValueError(f"{folder} lacks {file}; expected safetensors weights.")
        with safe_open(folder / file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is not a mapping)
                name = key.rpartition("visual.")[2]
                if name.startswith(("blocks.", "merger.", "patch_embed.")):
                    state[name] = tensors.get_tensor(key)
    return Qwen2_5_VLVisionConfig.from_pretrained(folder), state


__all__ = ["PROJECTOR_FILE", "ConvertedTower", "from_qwen2_5_vl"]
