"""Folders of small random zero-shot detectors, with their processors, as `from_pretrained` reads them."""

import string

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    CLIPTokenizer,
    DetrImageProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    OmDetTurboConfig,
    OmDetTurboForObjectDetection,
    OmDetTurboProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

WORDS = ("a", "the", "red", "blue", "car", "bus", "dog", "black", "white", "tree", "of", "with", "wheel", "house")

SQUARE = {"height": 64, "width": 64}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "image_size": 64,
    "out_indices": [2, 3, 4],
}


def save_grounding_dino(folder, max_text_len=256):
    """Grounding DINO with 16 queries; full stop, [CLS] and [SEP] at the ids that its code has written in it."""
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={**SWIN, "window_size": 7},
        text_config={
            "model_type": "bert",
            "vocab_size": 1200,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_queries=16,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=max_text_len,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    image_processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(image_processor, _bert_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_mm_grounding_dino(folder):
    """MM Grounding DINO of the same shape."""
    save_grounding_dino(folder)
    shape = GroundingDinoConfig.from_pretrained(folder).to_dict()
    config = MMGroundingDinoConfig(**{key: shape[key] for key in shape if key not in ("model_type", "architectures")})
    MMGroundingDinoForObjectDetection(config).save_pretrained(folder)
    return folder


def save_owlv2(folder):
    """OWLv2 with 16 patches, whose text tower reads 16 tokens as that of the real ones."""
    torch.manual_seed(0)
    Owlv2ForObjectDetection(Owlv2Config(**_owl_shape())).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size=SQUARE), _clip_tokenizer()).save_pretrained(folder)
    return folder


def save_owlvit(folder):
    """OWL-ViT of the same shape."""
    torch.manual_seed(0)
    OwlViTForObjectDetection(OwlViTConfig(**_owl_shape())).save_pretrained(folder)
    OwlViTProcessor(OwlViTImageProcessor(size=SQUARE, crop_size=SQUARE), _clip_tokenizer()).save_pretrained(folder)
    return folder


def save_omdet_turbo(folder):
    """OmDet-Turbo with 16 queries."""
    torch.manual_seed(0)
    text = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OmDetTurboConfig(
        image_size=64,
        backbone_config={**SWIN, "patch_size": 4, "window_size": 2},
        apply_layernorm_after_vision_backbone=False,
        text_config={**text, "model_type": "clip_text_model", "vocab_size": 600, "eos_token_id": 513},
        text_projection_in_dim=24,
        text_projection_out_dim=24,
        class_embed_dim=24,
        task_encoder_hidden_dim=32,
        num_queries=16,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 32, 64],
        encoder_dim_feedforward=32,
        encoder_attention_heads=2,
        vision_features_channels=[16, 16, 16],
        decoder_hidden_dim=16,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=32,
    )
    OmDetTurboForObjectDetection(config).save_pretrained(folder)
    OmDetTurboProcessor(DetrImageProcessor(size=SQUARE), _clip_tokenizer(77)).save_pretrained(folder)
    return folder


def _owl_shape():
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "text_config": {**tower, "vocab_size": 600, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0},
        "vision_config": {**tower, "image_size": 64, "patch_size": 16},
        "projection_dim": 16,
    }


def noise_picture():
    """200x120, always the same."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8))


def widest_gap(scores):
    """The middle of the widest gap between two scores: a threshold that no rounding moves a box across."""
    scores = np.sort(scores)
    place = np.diff(scores).argmax()
    return float(scores[place : place + 2].mean())


def _bert_tokenizer(folder):
    words = [f"[unused{index}]" for index in range(1100)]
    words[0], words[100], words[101], words[102], words[103] = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    words[1012], words[1029] = ".", "?"
    words += dict.fromkeys([*WORDS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)])
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    return BertTokenizerFast(str(vocabulary), do_lower_case=True, model_max_length=512)


def _clip_tokenizer(model_max_length=16):
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=model_max_length
    )
