"""Pictures, messages, configurations and encoded batches for the tests of finevit_vl."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from finevit_vl import (
    FineViTVLConfig,
    FineViTVLForConditionalGeneration,
    FineViTVLProcessor,
    build_qwen_tokenizer,
    generation_config_for,
)
from modeling_finevit import FineViTImageProcessorPil


def noise_image(seed: int, width: int = 84, height: int = 56) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def user(*parts) -> dict:
    """A user's message of pictures and texts."""
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in parts
        ],
    }


def small_config(tokenizer, text: dict | None = None, vision: dict | None = None, **fields) -> FineViTVLConfig:
    return FineViTVLConfig.from_size(
        "nano",
        tokenizer=tokenizer,
        text_config={"num_hidden_layers": 2, "tie_word_embeddings": False, **(text or {})},
        vision_config={"num_hidden_layers": 2, **(vision or {})},
        **{"tie_word_embeddings": False, **fields},
    )


def encode(processor, conversations, **kwargs):
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
        **kwargs,
    )


def save_untrained_nano(folder: Path) -> Path:
    """An untrained nano model and its processor; a wide untied head makes its answers vary with the picture."""
    torch.manual_seed(0)
    processor = FineViTVLProcessor.from_vision_text_pretrained(FineViTImageProcessorPil(), build_qwen_tokenizer(512))
    config = FineViTVLConfig.from_size("nano", tokenizer=processor.tokenizer, tie_word_embeddings=False)
    model = FineViTVLForConditionalGeneration(config)
    model.generation_config = generation_config_for(processor)
    torch.nn.init.normal_(model.lm_head.weight, std=1.0)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=1.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
