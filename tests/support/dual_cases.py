"""A small dual model and a ragged batch of pairs; random embeddings, and the sigmoid loss by its formula."""

import torch
from torch.nn import functional as F
from transformers import Siglip2Tokenizer

from finevit_vl.tokenizer import build_qwen_tokenizer
from modeling_finevit import FineViTDualConfig, FineViTDualModel, FineViTDualProcessor, FineViTImageProcessorPil
from tests.support.encoder_cases import RAGGED_GRID, make_patches

TEXT_LENGTH = 24
CAPTIONS = ["a red square", "two dogs on a mat", "the page says 17", "a chart", "nothing", "a blue circle at the left"]


def make_processor(text_length=TEXT_LENGTH):
    return FineViTDualProcessor(FineViTImageProcessorPil(), build_qwen_tokenizer(512), text_length=text_length)


def small_siglip2_tokenizer():
    """SigLIP 2's kind of tokenizer with letters for words."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return Siglip2Tokenizer(vocab={token: place for place, token in enumerate((*special, *"abcABC▁"))}, merges=[])


def make_dual(processor=None, attn_implementation="sdpa", **overrides):
    """Same seed, same weights; two layers in each tower, everything away from its start."""
    processor = processor or make_processor()
    text = {
        "vocab_size": len(processor.tokenizer),
        "pad_token_id": processor.tokenizer.pad_token_id,
        "max_position_embeddings": processor.text_length,
        "num_hidden_layers": 2,
        **overrides.pop("text_config", {}),
    }
    vision = {"num_hidden_layers": 2, "initializer_range": 0.1}
    torch.manual_seed(0)
    config = FineViTDualConfig.from_size("nano", vision_config=vision, text_config=text, **overrides)
    model = FineViTDualModel._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def make_pairs(processor):
    """Six pictures of different shapes with their captions."""
    texts = processor(text=CAPTIONS, return_tensors="pt")
    return {"pixel_values": make_patches(RAGGED_GRID), "image_grid_thw": RAGGED_GRID, **texts}


def make_embeds(pairs, width=16, seed=0, dtype=torch.float32):
    """Images, texts of norm 1 near their images, and the loss's scale and bias."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pairs, width, generator=generator, dtype=torch.float64)
    texts = images + torch.randn(pairs, width, generator=generator, dtype=torch.float64)
    images, texts = (F.normalize(rows, dim=-1).to(dtype).requires_grad_() for rows in (images, texts))
    scale, bias = (torch.tensor([value], dtype=dtype, requires_grad=True) for value in (4.5, -2.0))
    return images, texts, scale, bias


def plain_sigmoid_loss(images, texts, scale, bias, caption_ids=None):
    """SigLIP's loss with the whole matrix, as its paper writes it; equal captions of others left out."""
    logits = images @ texts.T * scale + bias
    pairs = torch.eye(len(logits), dtype=logits.dtype)
    losses = -F.logsigmoid((2 * pairs - 1) * logits)
    if caption_ids is not None:
        losses = losses * ((caption_ids[:, None] != caption_ids) + pairs)
    return losses.sum() / len(logits)
