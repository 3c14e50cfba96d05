"""Small random models of transformers that give patch tokens, and an image processor for each."""

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, ViTImageProcessorPil
from transformers.modeling_outputs import BaseModelOutput

from modeling_finevit import FineViTConfig, FineViTModel

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_RADIO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_img_size": 256}
# Family -> the classes' common name, and the fields of a config.
_FAMILIES = {
    "dinov3": ("DINOv3ViT", _SMALL | {"patch_size": 16, "num_register_tokens": 4}),
    "dinov2": ("Dinov2", _SMALL | {"patch_size": 14, "image_size": 56}),
    "dinov2_with_registers": ("Dinov2WithRegisters", _SMALL | {"patch_size": 14, "image_size": 56}),
    "tipsv2": ("Tipsv2Vision", _SMALL | {"patch_size": 14, "image_size": 56}),
    "siglip": ("SiglipVision", _SMALL | {"patch_size": 16, "image_size": 64}),
    "siglip2": ("Siglip2Vision", _SMALL | {"patch_size": 16, "num_patches": 16}),
    "clip": ("CLIPVision", _SMALL | {"patch_size": 16, "image_size": 64}),
    "radio": ("Radio", _RADIO | {"patch_size": 16}),
    "finevit": ("", {"num_hidden_layers": 2, "initializer_range": 0.1}),
}
FAMILIES = tuple(_FAMILIES)


def tiny_teacher(family, **fields):
    """A model of a family with random weights, large enough that a patch's own pixels move its features most."""
    torch.manual_seed(0)
    name, common = _FAMILIES[family]
    if family == "finevit":
        return FineViTModel(FineViTConfig.from_size("nano", **(common | fields))).eval()
    config = getattr(transformers, f"{name}Config")(**(common | fields))
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "position" in parameter_name or "pos_embed" in parameter_name:
                parameter.normal_(std=0.1)
    return model


def scaling(do_normalize=True):
    """An image processor with mean and deviation of its own."""
    return ViTImageProcessorPil(do_normalize=do_normalize, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.4))


class FixedConfig(PreTrainedConfig):
    model_type = "fixed_positions"
    patch_size: int = 16
    image_size: int = 64
    hidden_size: int = 8


class FixedPositions(PreTrainedModel):
    """Patches of a picture of one size: its table of positions does not stretch."""

    config: FixedConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.positions = torch.nn.Parameter(torch.zeros(1, (config.image_size // config.patch_size) ** 2, 8))
        self.post_init()

    def forward(self, pixel_values):
        return BaseModelOutput(self.embed(pixel_values).flatten(2).transpose(1, 2) + self.positions)
