"""Small real parts: Qwen's BPE cut to 1,024 ranks, the Pillow image processor, and an untied random model.

Tied random models repeat one token whatever they see; an untied head makes every row differ, so that a wrong picture
must show.
"""

import pytest
import torch

from finevit_vl import (
    FineViTVLForConditionalGeneration,
    FineViTVLProcessor,
    build_qwen_tokenizer,
    generation_config_for,
)
from modeling_finevit import FineViTImageProcessorPil
from tests.support.vl_models import encode, noise_image, small_config, user


@pytest.fixture(scope="session")
def tokenizer():
    return build_qwen_tokenizer(1024)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return FineViTVLProcessor(image_processor=FineViTImageProcessorPil(), tokenizer=tokenizer)


@pytest.fixture(scope="session")
def shared_model(tokenizer, processor):
    torch.manual_seed(0)
    model = FineViTVLForConditionalGeneration(small_config(tokenizer)).eval()
    model.generation_config = generation_config_for(processor)
    return model


@pytest.fixture
def model(shared_model):
    yield shared_model
    shared_model.eval().requires_grad_(True)
    shared_model.zero_grad()


@pytest.fixture(scope="session")
def conversations():
    """Rows with two, no and one picture, all of different sizes."""
    return [
        [user(noise_image(1), noise_image(2, 56, 112), "Compare.")],
        [user("What is the capital of France?")],
        [user(noise_image(3, 112, 112), "Describe what you see in this picture.")],
    ]


@pytest.fixture(scope="session")
def batch(processor, conversations):
    return encode(processor, conversations)
