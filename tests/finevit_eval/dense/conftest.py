"""Small random models as patch encoders, in the process and as folders."""

from types import SimpleNamespace

import pytest

from finevit_eval.dense.patch_encoder import PatchEncoder
from finevit_eval.embedder import Embedder
from modeling_finevit import FineViTImageProcessorPil
from tests.support.dual_cases import make_dual, make_processor
from tests.support.encoder_cases import make_model


@pytest.fixture(scope="session")
def encoder():
    """A bare FineViT."""
    return PatchEncoder(Embedder(make_model(), FineViTImageProcessorPil()))


@pytest.fixture(scope="session")
def dual():
    """A FineViT-Dual."""
    processor = make_processor()
    return PatchEncoder(Embedder(make_dual(processor), processor))


@pytest.fixture
def pooled_by():
    """image processor, model of pictures and texts -> its patch encoder, without a tokenizer."""
    return lambda processor, model: PatchEncoder(Embedder(model, SimpleNamespace(image_processor=processor)))
