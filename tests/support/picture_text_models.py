"""Folders of small random models of pictures and texts with their processors."""

from pathlib import Path

import torch
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

from finevit_vl.tokenizer import build_qwen_tokenizer
from tests.support.dual_cases import make_dual, make_processor

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_siglip(folder: Path, seed: int = 0) -> str:
    """A SigLIP that resizes every picture to 28 x 28."""
    tokenizer = build_qwen_tokenizer(512)
    torch.manual_seed(seed)
    config = SiglipConfig(
        text_config={**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**SMALL, "image_size": 28, "patch_size": 14},
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 28, "width": 28}), tokenizer).save_pretrained(folder)
    return str(folder)


def save_dual(folder: Path) -> str:
    """A FineViT-Dual, whose pictures keep their own resolution."""
    processor = make_processor()
    make_dual(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
