"""FineViTConfig: one dial of sizes, the paper's parameter count, errors that name the mistake."""

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from modeling_finevit import FINEVIT_SIZES, FineViTConfig, FineViTModel

pytestmark = pytest.mark.model


def count_parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in FineViTModel(config).parameters())


def test_full_size_has_the_papers_parameter_count():
    weights = 28 * (4 * 1536**2 + 3 * 1536 * 4608 + 2 * 1536) + 3 * 14**2 * 1536 + 1536
    biases = 28 * (4 * 1536 + 2 * 4608 + 1536) + 1536
    assert count_parameters(FineViTConfig.from_size("full")) == weights + biases == 860_249_088
    no_biases = FineViTConfig.from_size("full", attention_bias=False, mlp_bias=False, patch_embed_bias=False)
    assert count_parameters(no_biases) == weights == 859_774_464


def test_default_config_is_the_full_size():
    assert FineViTConfig().to_dict() == FineViTConfig.from_size("full").to_dict()


def test_sizes_grow_and_keep_the_mlp_at_three_widths():
    counts = [count_parameters(FineViTConfig.from_size(size)) for size in FINEVIT_SIZES]
    assert counts == sorted(counts)
    assert all(
        FineViTConfig.from_size(s).intermediate_size == 3 * FineViTConfig.from_size(s).hidden_size
        for s in FINEVIT_SIZES
    )


def test_overrides_and_round_trip(tmp_path):
    config = FineViTConfig.from_size("tiny", qk_norm=True, fullatt_block_indexes=[3], intermediate_size=500)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is FineViTConfig
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert (loaded.qk_norm, loaded.fullatt_block_indexes, loaded.intermediate_size) == (True, [3], 500)


def test_rope_parameters_are_standardised():
    assert FineViTConfig().rope_parameters == {"rope_type": "axial", "rope_theta": 10_000.0}
    assert FineViTConfig(rope_parameters={"rope_theta": 500.0}).to_dict()["rope_parameters"]["rope_theta"] == 500.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "multiple of 4"),
        ({"hidden_size": 36, "num_attention_heads": 6}, "multiple of 4"),
        ({"window_size": 100, "fullatt_block_indexes": [0]}, "window_size"),
        ({"num_hidden_layers": 4, "fullatt_block_indexes": [4]}, "fullatt_block_indexes"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FineViTConfig(**fields)


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ValueError, match="nano, tiny, small, base, large, full"):
        FineViTConfig.from_size("huge")


def test_every_field_is_documented():
    inherited = set(PreTrainedConfig.__dataclass_fields__)
    for field in set(FineViTConfig.__dataclass_fields__) - inherited:
        assert f"        {field} (" in str(FineViTConfig.__doc__), field
