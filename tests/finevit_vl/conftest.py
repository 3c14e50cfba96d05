"""The small real parts that all tests of this package use."""

from tests.support.vl_fixtures import batch, conversations, model, processor, shared_model, tokenizer

__all__ = ["batch", "conversations", "model", "processor", "shared_model", "tokenizer"]
