"""A recipe at the smallest scale and what is built from it."""

import pyarrow.parquet as pq
import pytest

from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from tests.support.training_data import reader_of
from tests.support.vl_fixtures import model, processor, shared_model, tokenizer

__all__ = ["model", "processor", "reader_for", "recipe_for", "records", "shared_model", "tokenizer", "trainer_for"]


@pytest.fixture
def recipe_for(nano_corpus, tmp_path):
    """Parses the smallest recipe with further flags: `recipe_for(max_steps=3, lora_rank=4)`."""

    def make(**flags):
        values = {
            "size": "nano",
            "vocab_size": 512,
            "text_config": '{"num_hidden_layers": 2}',
            "vision_config": '{"num_hidden_layers": 2}',
            "data": nano_corpus,
            "output_dir": tmp_path / "out",
            "max_turns": 3,
            "max_steps": 2,
            "per_device_train_batch_size": 1,
            "max_length": 1024,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "bf16": False,
            **flags,
        }
        return parse_recipe([part for key, value in values.items() for part in (f"--{key}", str(value))])

    return make


@pytest.fixture
def trainer_for(recipe_for):
    return lambda **flags: build_trainer(recipe_for(**flags))


@pytest.fixture(scope="session")
def records(nano_corpus):
    """The records of the embedded corpus, pictures and all."""
    return pq.read_table(next((nano_corpus / "data").glob("*.parquet"))).to_pylist()


@pytest.fixture
def reader_for(nano_corpus, processor):
    """Reads the embedded corpus: `reader_for(seed=3, isolate_turns=True)`."""
    return lambda **flags: reader_of([str(nano_corpus)], processor, **flags)
