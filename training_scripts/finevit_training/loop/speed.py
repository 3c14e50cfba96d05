"""How much arithmetic a training step is, and how much of it this machine can do: the two halves of MFU.

Model FLOPs count matrix products only, as PaLM's appendix B does: no norms, activations or recomputation. Attention
over a packed batch counts the true lengths, the causal half of the language model's score matrix, and the head only
where there is loss.
"""

import time
from typing import Any

import torch
from torch import nn

from finevit_vl.losses import IGNORE_INDEX


class FlopCounter:
    """FLOPs of one forward and backward pass of a FineViT-VL on a given batch.

    A part whose parameters are frozen still passes gradients on if something before it is trained; its weight
    gradients, a third of the cost, fall away. A frozen tower with nothing trained before it costs its forward pass
    alone.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        parts = split_parameters(model)
        vision, text = config.vision_config, config.get_text_config()
        self.merge = vision.spatial_merge_size**2
        self.vision_weights = _matrix_elements(parts["tower"])
        self.projector_weights = _matrix_elements(parts["projector"])
        embeddings = text.vocab_size * text.hidden_size
        tables = 1 if config.tie_word_embeddings else 2
        self.text_weights = _matrix_elements(parts["llm"]) - tables * embeddings
        self.head_weights = embeddings
        self.vision_score = 4 * vision.num_hidden_layers * vision.hidden_size
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.text_score = 2 * text.num_hidden_layers * text.num_attention_heads * head_dim
        trained = {name: any(p.requires_grad for p in params.values()) for name, params in parts.items()}
        self.vision_passes = 3 if trained["tower"] else 1
        before_text = trained["tower"] or trained["projector"]
        self.projector_passes = 1 + trained["projector"] + trained["tower"]
        self.text_passes = 2 + trained["llm"] if before_text or trained["llm"] else 1

    def __call__(self, batch: dict[str, Any]) -> float:
        """FLOPs of a training step on `batch` (the collator's output)."""
        frames, rows, columns = batch["image_grid_thw"].cpu().T
        patches = (rows * columns).double()
        num_patches = float((frames * patches).sum())
        squares = float((frames * patches.square()).sum())
        lengths = batch["lengths"].double()
        vision = 2 * num_patches * self.vision_weights + self.vision_score * squares
        projector = 2 * num_patches / self.merge * self.projector_weights
        text = 2 * float(lengths.sum()) * self.text_weights + self.text_score * float(lengths.square().sum())
        supervised = float((batch["labels"] != IGNORE_INDEX).sum())
        text += 2 * supervised * self.head_weights
        return self.vision_passes * vision + self.projector_passes * projector + self.text_passes * text


def split_parameters(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of "tower", "projector" and "llm" (language model and head) by name, PEFT or not."""
    parts: dict[str, dict[str, nn.Parameter]] = {"tower": {}, "projector": {}, "llm": {}}
    for name, parameter in model.named_parameters():
        part = "tower" if "vision_tower." in name else "projector" if "multi_modal_projector." in name else "llm"
        parts[part][name] = parameter
    return parts


def _matrix_elements(parameters: dict[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values() if parameter.ndim > 1)


def measure_peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of a large matrix product on `device`, the best of as many tries as fit into `seconds`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best = float("inf")
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
