"""How much arithmetic a training step is, how much of it this machine can do, and how fast the run goes.

Model FLOPs count matrix products only, as PaLM's appendix B does: no norms, activations or recomputation. Attention
over a packed batch counts the true lengths (of the windows, in a tower's windowed layers), the causal half of the
language model's score matrix, the experts that a token visits, and the head only where there is loss.
"""

import resource
import sys
import time
from typing import Any

import torch
from torch import nn

from finevit_training.loop.parts import split_parameters
from finevit_vl.losses import IGNORE_INDEX


class FlopCounter:
    """FLOPs of one forward and backward pass of a FineViT-VL on a given batch.

    Cost of a part in units of its forward pass: 3 if trained; 2 if frozen but something before it is trained
    (gradients pass through, no weight gradients); 1 if frozen and nothing before it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.parts = split_parameters(model)
        vision, text = config.vision_config, config.get_text_config()
        self.merge = vision.spatial_merge_size**2
        self.vision_weights = _matrix_elements(self.parts["tower"])
        self.projector_weights = _matrix_elements(self.parts["projector"])
        embeddings = text.vocab_size * text.hidden_size
        tables = 1 if config.tie_word_embeddings else 2
        self.text_weights = _visited_elements(self.parts["llm"], text) - tables * embeddings
        self.head_weights = embeddings
        self.score = 4 * vision.hidden_size
        full = vision.fullatt_block_indexes
        self.full_layers = vision.num_hidden_layers if full is None else len(full)
        self.windowed_layers = vision.num_hidden_layers - self.full_layers
        self.window = vision.window_size // vision.patch_size  # patches
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

    def __call__(self, batch: dict[str, Any]) -> float:
        """FLOPs of a training step on `batch` (the collator's output)."""
        frames, rows, columns = batch["image_grid_thw"].cpu().double().T
        patches = float((frames * rows * columns).sum())
        scores = self.full_layers * float((frames * (rows * columns).square()).sum())
        if self.windowed_layers:
            in_windows = _sum_of_squares(rows, self.window) * _sum_of_squares(columns, self.window)
            scores += self.windowed_layers * float((frames * in_windows).sum())
        _, lengths, _, seen_before = torch.as_tensor(batch["segments"]).double().T
        vision = 2 * patches * self.vision_weights + self.score * scores
        projector = 2 * patches / self.merge * self.projector_weights
        scored = float((lengths * (lengths + 2 * seen_before)).sum())
        text = 2 * float(lengths.sum()) * self.text_weights + self.text_score * scored
        supervised = float((batch["labels"] != IGNORE_INDEX).sum())
        text += 2 * supervised * self.head_weights
        vision_passes, projector_passes, text_passes = self.passes()
        return vision_passes * vision + projector_passes * projector + text_passes * text


def _sum_of_squares(sides: torch.Tensor, window: int) -> torch.Tensor:
    """Sum of the squared lengths of the pieces that each side (patches) is cut into; the last piece may be short."""
    return (sides // window) * window**2 + (sides % window).square()


def _matrix_elements(parameters: dict[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values() if parameter.ndim > 1)


def _visited_elements(parameters: dict[str, nn.Parameter], text: Any) -> float:
    """Elements of the matrices that one token meets: of a mixture's experts only those that it is sent to."""
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    share = text.num_experts_per_tok / experts if experts else 1.0
    inside = {name: p for name, p in parameters.items() if ".experts." in name}
    return _matrix_elements(parameters) - (1 - share) * _matrix_elements(inside)


class SpeedMeter:
    """Speed since the last reading, summed over this process's batches."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.flops = FlopCounter(model)
        self.device = device
        self.peak_flops = matmul_flops_per_second(device, dtype)
        self.reset()

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.images = self.tokens = self.positions = 0
        self.work: list[float] = []  # FLOPs of each micro-batch

    def add(self, batch: dict[str, Any]) -> None:
        """Counts one micro-batch (the collator's output: image_grid_thw, lengths, input_ids, labels)."""
        self.images += len(batch["image_grid_thw"])
        self.tokens += int(batch["lengths"].sum())
        self.positions += batch["input_ids"].numel()
        self.work.append(self.flops(batch))

    def read(self, num_processes: int) -> dict[str, float]:
        """The figures since the last call, for the whole job if every process does as much as this one.

        Returns:
            images_per_second, tokens_per_second, mfu (share of this device's measured FLOP/s), padding_share (of the
            positions), memory_gb (see `memory_gb`).
        """
        seconds = time.perf_counter() - self.started
        figures = {
            "images_per_second": num_processes * self.images / seconds,
            "tokens_per_second": num_processes * self.tokens / seconds,
            "mfu": sum(self.work) / seconds / self.peak_flops,
            "padding_share": 1 - self.tokens / max(1, self.positions),
            "memory_gb": memory_gb(self.device),
        }
        self.reset()
        return figures


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: the accelerator's, or on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of a large matrix product on `device`, the best of as many tries as fit into `seconds`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    synchronize(device)
    best = float("inf")
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Waits until `device` is done with all that was started on it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
