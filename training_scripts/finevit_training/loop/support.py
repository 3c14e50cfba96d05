"""Ways of launching that a run cannot be finished or trained well with."""

import os
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType


def refuse_setup(args: Any, lora: bool) -> None:
    """Raises ValueError for a launch that the training does not support, before anything is loaded.

    Args:
        args: the run's TrainingArguments.
        lora: whether adapters are trained.
    """
    kind = PartialState().distributed_type
    if kind == DistributedType.FSDP and lora:
        raise ValueError("LoRA adapters cannot be merged from FSDP shards; launch LoRA runs without FSDP")
    if kind == DistributedType.FSDP and (args.activation_checkpointing or args.gradient_checkpointing):
        raise ValueError(
            "activation_checkpointing: true under FSDP gathers every layer's weights once more in the backward pass; "
            "leave it out and set fsdp_activation_checkpointing: true in fsdp_config of accelerate's configuration"
        )
    if kind == DistributedType.FSDP and args.ema_decay is not None:
        raise ValueError("ema_decay averages whole weights, which FSDP splits; leave one of them out")
    if lora and args.ema_decay is not None:
        raise ValueError(
            "ema_decay averages the encoder's own weights, which lora_rank freezes; leave one of them out"
        )
    if _zero_stage(args) == 3:
        raise ValueError(
            "DeepSpeed ZeRO-3 splits the weights in a way that the finished folder is not gathered from; launch with "
            "FSDP2 (recipes/accelerate/fsdp2_8x.yaml), or with ZeRO stage 2"
        )


def sum_gradients_in_float32(accelerator: Accelerator) -> None:
    """Under FSDP2 and mixed precision: ranks add up gradients in float32, and the model's outputs stay as they are.

    accelerate has both rounded to the dtype of the weights: the sum of many ranks loses small gradients, and a loss
    of 1.480 becomes 1.477.
    """
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    if plugin and plugin.fsdp_version == 2 and plugin.mixed_precision_policy:
        policy = plugin.mixed_precision_policy
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def _zero_stage(args: Any) -> int:
    config = getattr(args, "hf_deepspeed_config", None)
    if config is not None:
        return 3 if config.is_zero3() else 0
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
