"""The text tower: longer tables of positions, texts in the form it was trained on, folders it loads from."""

import pytest
import torch
from transformers import Siglip2TextConfig, Siglip2TextModel

from modeling_finevit.pretraining.text_tower import load_text_tower, stretch_positions, to_fixed_length
from tests.support.encoder_cases import make_model

pytestmark = pytest.mark.model


def test_linear_stretch_interpolates_between_neighbours_and_keeps_both_ends():
    table = torch.arange(64.0)[:, None] * torch.tensor([1.0, -2.0])
    longer = stretch_positions(table, 256, "linear")
    torch.testing.assert_close(longer[:, 0], torch.linspace(0, 63, 256))
    torch.testing.assert_close(longer[:, 1], -2 * longer[:, 0])
    bent = torch.randn(64, 3)
    longer = stretch_positions(bent, 256, "linear")
    assert torch.equal(longer[[0, -1]], bent[[0, -1]])
    torch.testing.assert_close(longer[85], bent[21])  # 85 * 63 / 255 = 21


def test_keep_20_leaves_the_first_20_rows_and_stretches_the_others():
    table = torch.arange(64.0)[:, None]
    longer = stretch_positions(table, 256, "keep_20")[:, 0]
    assert torch.equal(longer[:21], torch.arange(21.0))
    torch.testing.assert_close(longer[20:], torch.linspace(20, 63, 236))


def test_a_table_of_the_same_length_stays():
    table = torch.randn(64, 3)
    assert torch.equal(stretch_positions(table, 64, "linear"), table)


def test_refuses_to_shrink_and_what_it_does_not_know():
    table = torch.randn(64, 3)
    with pytest.raises(ValueError, match="64 positions cannot become one of 32"):
        stretch_positions(table, 32, "linear")
    with pytest.raises(ValueError, match="more than 20 positions"):
        stretch_positions(table[:20], 64, "keep_20")
    with pytest.raises(ValueError, match="Unknown stretch 'cubic': expected one of linear, keep_20"):
        stretch_positions(table, 256, "cubic")  # ty: ignore[invalid-argument-type]


def test_texts_become_tokens_first_then_padding_however_they_came():
    expected = torch.tensor([[5, 6, 7, 0, 0, 0], [8, 9, 0, 0, 0, 0]])
    right = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])
    left = torch.tensor([[0, 0, 5, 6, 7], [0, 0, 0, 8, 9]])
    assert torch.equal(to_fixed_length(right, None, 6, 0), expected)
    assert torch.equal(to_fixed_length(left, None, 6, 0), expected)
    assert torch.equal(to_fixed_length(right[:, :3], None, 6, 0), expected)
    other_padding = torch.tensor([[3, 5, 6, 7], [3, 3, 8, 9]])
    assert torch.equal(to_fixed_length(other_padding, (other_padding != 3).long(), 6, 0), expected)
    long = torch.tensor([[0] * 5 + [5, 6, 7], [8, 9] + [0] * 6])
    assert torch.equal(to_fixed_length(long, None, 6, 0), expected)


def test_a_text_that_is_too_long_is_cut_and_keeps_its_end_of_text():
    long = torch.tensor([[5, 6, 7, 8, 1], [5, 6, 1, 0, 0], [5, 6, 7, 1, 0]])
    assert to_fixed_length(long, None, 4, 0, 1).tolist() == [[5, 6, 7, 1], [5, 6, 1, 0], [5, 6, 7, 1]]
    assert to_fixed_length(long, None, 4, 0).tolist() == [[5, 6, 7, 8], [5, 6, 1, 0], [5, 6, 7, 1]]
    end_is_padding = torch.tensor([[5, 6, 7, 8, 1], [5, 6, 7, 1, 1]])  # as in SigLIP's first tokenizer
    assert to_fixed_length(end_is_padding, None, 4, 1, 1).tolist() == [[5, 6, 7, 1], [5, 6, 7, 1]]


def test_a_tower_grows_when_it_is_loaded_and_stays_so(tmp_path):
    config = Siglip2TextConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    tower = Siglip2TextModel(config)
    tower.save_pretrained(tmp_path / "short")
    longer = load_text_tower(tmp_path / "short", 256, "keep_20")
    table = longer.embeddings.position_embedding.weight
    assert torch.equal(table, stretch_positions(tower.embeddings.position_embedding.weight, 256, "keep_20"))
    assert table.requires_grad
    longer.save_pretrained(tmp_path / "long")
    again = load_text_tower(tmp_path / "long", 256)
    ids = torch.randint(1, 50, (2, 256))
    assert torch.equal(again.eval()(ids).pooler_output, longer.eval()(ids).pooler_output)


def test_a_folder_of_something_else_is_refused(tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a finevit, which is no text tower"):
        load_text_tower(tmp_path, 256)
