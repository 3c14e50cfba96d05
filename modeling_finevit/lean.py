# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Steps of a layer that keep little for the backward pass.

Autograd keeps every intermediate of a gated MLP, and on a CPU float32 copies inside a norm of bfloat16. Here the
backward pass computes them again from what is kept anyway. A compiled graph decides that for itself and gets the
plain steps.

Shape suffixes: C channels.
"""

from typing import Any

import torch
from torch.nn import functional as F


def rms_norm(hidden_states: torch.Tensor, weight_C: torch.Tensor, eps: float) -> torch.Tensor:
    """`(..., C)` in the dtype it came in: scaled to a root mean square of 1, computed in float32, times the weight.

    On CUDA it is PyTorch's fused step, which keeps the input and one number a row; elsewhere the same is kept.
    """
    if hidden_states.device.type == "cpu" and _is_recorded(hidden_states, weight_C):
        return _RMSNorm.apply(hidden_states, weight_C, eps)
    widened = hidden_states.to(torch.promote_types(hidden_states.dtype, weight_C.dtype))
    weight_C = weight_C.to(widened.dtype)
    return F.rms_norm(widened, weight_C.shape, weight_C, eps).to(hidden_states.dtype)


def silu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, elementwise; the backward pass keeps the two factors alone."""
    return _SiLUGate.apply(gate, up) if _is_recorded(gate, up) else F.silu(gate) * up


def _is_recorded(*tensors: torch.Tensor) -> bool:
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return wanted and not torch.compiler.is_compiling()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: torch.Tensor, weight_C: torch.Tensor, eps: float) -> torch.Tensor:
        wide = hidden_states.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(hidden_states, weight_C, scale)
        return (wide * scale * weight_C.float()).to(hidden_states.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden_states, weight_C, scale = ctx.saved_tensors
        normed, grad = hidden_states.float() * scale, grads[0].float()
        weighted = grad * weight_C.float()
        grad_input = (weighted - normed * (weighted * normed).mean(-1, keepdim=True)) * scale
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        return grad_input.to(hidden_states.dtype), grad_weight.to(weight_C.dtype), None


class _SiLUGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


__all__ = ["rms_norm", "silu_gate"]
