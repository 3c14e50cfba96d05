"""Folders of random models of the smallest size, with the names and files of the real ones."""

from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

from finevit_vl import build_qwen_tokenizer

WIDTH = 32


def save_qwen_vl(folder: Path) -> Path:
    """A Qwen2.5-VL whose merger ends in `WIDTH`."""
    torch.manual_seed(0)
    text = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text |= {"num_key_value_heads": 1, "vocab_size": 64, "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"fullatt_block_indexes": [1]}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    return folder


def save_qwen3(folder: Path) -> Path:
    """A Qwen3 of that width with a tokenizer of 300 ranks."""
    torch.manual_seed(0)
    tokenizer = build_qwen_tokenizer(300)
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder
