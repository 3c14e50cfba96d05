"""A small random Qwen2.5-VL, and still pictures as it and as FineViT take them."""

from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

# Odd shapes: below, above and not a multiple of the 8 x 8 window.
GRID = torch.tensor([[1, 6, 10], [1, 18, 14], [1, 2, 2], [1, 8, 8], [1, 22, 4], [1, 6, 10]])
VISION_FIELDS: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_heads": 3,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1, 3],
}
TEXT_FIELDS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
}
IDS = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}


def make_qwen2_5_vl() -> Qwen2_5_VLModel:
    torch.manual_seed(0)
    config: Any = Qwen2_5_VLConfig(vision_config=VISION_FIELDS, text_config=TEXT_FIELDS, **IDS)  # ty: ignore[invalid-argument-type]
    model = Qwen2_5_VLModel(config).eval()
    move_weights(model)
    return model


def move_weights(model: torch.nn.Module) -> None:
    """Norms and biases away from where they start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def still_patches(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """`(sum_patches, 588)` for FineViT, and with each patch twice, as Qwen sees a still image."""
    patches = torch.randn(int(GRID.prod(-1).sum()), 3, 1, 196, generator=torch.Generator().manual_seed(seed))
    return patches.flatten(1), patches.expand(-1, -1, 2, -1).flatten(1)
