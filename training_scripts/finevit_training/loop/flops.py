"""How much arithmetic a training step is.

Model FLOPs count matrix products only, as PaLM's appendix B does: no norms, activations or recomputation. Attention
over a packed batch counts the true lengths (of the windows, in a tower's windowed layers), the causal half of the
language model's score matrix, the experts that a token visits, and the head only where there is loss.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from finevit_training.loop.parts import split_parameters
from finevit_training.loop.speed import Work
from finevit_vl.losses import IGNORE_INDEX


class TowerFlops:
    """FLOPs of a forward pass of a FineViT over packed pictures.

    Args:
        config: a FineViTConfig.
        weights: elements of its matrices, see `matrix_elements`.
    """

    def __init__(self, config: Any, weights: int) -> None:
        self.weights = weights
        self.score = 4 * config.hidden_size
        full = config.fullatt_block_indexes
        self.full_layers = config.num_hidden_layers if full is None else len(full)
        self.windowed_layers = config.num_hidden_layers - self.full_layers
        self.window = config.window_size // config.patch_size  # patches

    def __call__(self, image_grid_thw: torch.Tensor) -> float:
        """Of pictures of these grids `(images, 3)`."""
        frames, rows, columns = image_grid_thw.cpu().double().T
        patches = float((frames * rows * columns).sum())
        scores = self.full_layers * float((frames * (rows * columns).square()).sum())
        if self.windowed_layers:
            in_windows = _sum_of_squares(rows, self.window) * _sum_of_squares(columns, self.window)
            scores += self.windowed_layers * float((frames * in_windows).sum())
        return 2 * patches * self.weights + self.score * scores


class VLWork:
    """Counts the batches of a FineViT-VL: tokens of conversations, and FLOPs of a forward and backward pass.

    Cost of a part in units of its forward pass: 3 if trained; 2 if frozen but something before it is trained
    (gradients pass through, no weight gradients); 1 if frozen and nothing before it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.parts = split_parameters(model)
        vision, text = config.vision_config, config.get_text_config()
        self.merge = vision.spatial_merge_size**2
        self.tower = TowerFlops(vision, matrix_elements(self.parts["tower"]))
        self.projector_weights = matrix_elements(self.parts["projector"])
        embeddings = text.vocab_size * text.hidden_size
        tables = 1 if config.tie_word_embeddings else 2
        self.text_weights = _visited_elements(self.parts["llm"], text) - tables * embeddings
        self.head_weights = embeddings
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.text_score = 2 * text.num_hidden_layers * text.num_attention_heads * head_dim

    def passes(self) -> tuple[int, int, int]:
        """Forward passes' worth of the tower, the projector and the language model, by what is trained now."""
        trained = {name: any(p.requires_grad for p in params.values()) for name, params in self.parts.items()}
        before_text = trained["tower"] or trained["projector"]
        return (
            3 if trained["tower"] else 1,
            1 + trained["projector"] + trained["tower"],
            1 + trained["llm"] + (before_text or trained["llm"]),
        )

    def __call__(self, batch: dict[str, Any]) -> Work:
        """Of a batch as the loader gives it."""
        return Work(
            len(batch["image_grid_thw"]), int(batch["lengths"].sum()), batch["input_ids"].numel(), self.flops(batch)
        )

    def flops(self, batch: dict[str, Any]) -> float:
        """FLOPs of a training step; of the batch it needs `image_grid_thw`, `segments` and `labels`."""
        grid = batch["image_grid_thw"].cpu()
        _, lengths, _, seen_before = torch.as_tensor(batch["segments"]).double().T
        projector = 2 * float(grid.double().prod(-1).sum()) / self.merge * self.projector_weights
        scored = float((lengths * (lengths + 2 * seen_before)).sum())
        text = 2 * float(lengths.sum()) * self.text_weights + self.text_score * scored
        supervised = float((batch["labels"] != IGNORE_INDEX).sum())
        text += 2 * supervised * self.head_weights
        vision_passes, projector_passes, text_passes = self.passes()
        return vision_passes * self.tower(grid) + projector_passes * projector + text_passes * text


class DualWork:
    """Counts the batches of a FineViTDualModel: tokens of captions, and FLOPs of a forward and backward pass.

    A tower costs three forward passes where it is trained and one where it is frozen. The logits of all pairs, which
    other ranks share, are left out: at the paper's 49,152 pairs they are less than a thousandth of the towers' work.

    Args:
        parts: see `split_parameters`.
    """

    def __init__(self, model: nn.Module, parts: Mapping[str, Iterable[str]]) -> None:
        config: Any = model.config
        self.parts = split_parameters(model, parts)
        text = config.text_config
        self.tower = TowerFlops(config.vision_config, matrix_elements(self.parts["tower"]))
        self.pooling_width = config.vision_config.hidden_size
        keys_and_values = 2 * self.pooling_width**2
        self.pooling_weights = (matrix_elements(self.parts["pooling"]) - keys_and_values) * config.num_pooling_queries
        tables = (text.vocab_size + text.max_position_embeddings) * text.hidden_size
        # What is behind the layers meets the last token alone.
        behind = {name: p for name, p in self.parts["text"].items() if "head." in name or "text_projection." in name}
        at_the_end = matrix_elements(behind)
        of_token = 2 * (matrix_elements(self.parts["text"]) - tables - at_the_end)
        of_token += 4 * text.num_hidden_layers * text.hidden_size * config.text_length
        self.text = config.text_length * of_token + 2 * at_the_end

    def __call__(self, batch: dict[str, Any]) -> Work:
        """Of a batch as the loader gives it."""
        passes = {name: 3 if any(p.requires_grad for p in own.values()) else 1 for name, own in self.parts.items()}
        grid, pairs = batch["image_grid_thw"].cpu(), len(batch["input_ids"])
        # Keys and values of each patch; the other matrices meet the queries of a picture alone.
        pooling = 4 * float(grid.prod(-1).sum()) * self.pooling_width**2 + 2 * pairs * self.pooling_weights
        texts = pairs + (0 if batch["regions"] is None else len(batch["regions"]["boxes"]))
        flops = passes["tower"] * self.tower(grid) + passes["pooling"] * pooling + passes["text"] * texts * self.text
        return Work(pairs, int(batch["lengths"].sum()), batch["input_ids"].numel(), flops)


def _sum_of_squares(sides: torch.Tensor, window: int) -> torch.Tensor:
    """Sum of the squared lengths of the pieces that each side (patches) is cut into; the last piece may be short."""
    return (sides // window) * window**2 + (sides % window).square()


def matrix_elements(parameters: dict[str, nn.Parameter]) -> int:
    """Elements of all parameters that are matrices."""
    return sum(parameter.numel() for parameter in parameters.values() if parameter.ndim > 1)


def _visited_elements(parameters: dict[str, nn.Parameter], text: Any) -> float:
    """Elements of the matrices that one token meets: of a mixture's experts only those that it is sent to."""
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    share = text.num_experts_per_tok / experts if experts else 1.0
    inside = {name: p for name, p in parameters.items() if ".experts." in name}
    return matrix_elements(parameters) - (1 - share) * matrix_elements(inside)
