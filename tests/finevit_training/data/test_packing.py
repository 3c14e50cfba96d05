"""Packing loses nothing, doubles nothing, and keeps samples apart."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finevit_training.data.packing import IGNORE_INDEX, collate_packed, pack_best_fit
from tests.support.vl_models import encode, noise_image, user

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


class TestPackBestFit:
    @given(LENGTHS)
    def test_every_sample_lies_in_one_row_and_no_row_is_too_long(self, lengths):
        rows = pack_best_fit(lengths, 64)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(0 < sum(lengths[index] for index in row) <= 64 for row in rows)

    @given(LENGTHS)
    def test_rows_stay_within_the_bound_of_best_fit_decreasing(self, lengths):
        assert len(pack_best_fit(lengths, 64)) <= 11 / 9 * max(1, math.ceil(sum(lengths) / 64)) * 1.5 + 1
        rows = pack_best_fit(lengths, 64)
        fills = sorted(sum(lengths[index] for index in row) for row in rows)
        assert len(rows) < 2 or fills[0] + fills[1] > 64, "two rows would fit into one"

    @given(LENGTHS)
    def test_the_same_lengths_give_the_same_rows_in_order(self, lengths):
        rows = pack_best_fit(lengths, 64)
        assert rows == pack_best_fit(list(lengths), 64)
        assert rows == sorted(sorted(row) for row in rows)

    def test_fills_gaps_that_first_come_first_served_leaves(self):
        assert pack_best_fit([6, 7, 3, 4], 10) == [[0, 3], [1, 2]]

    @pytest.mark.parametrize("length", [0, 11])
    def test_a_sample_that_fits_no_row_is_named(self, length):
        with pytest.raises(ValueError, match=f"Sample 1 has {length} tokens"):
            pack_best_fit([5, length], 10)


@st.composite
def packed_rows(draw):
    sizes = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4))
    token = iter(range(1, 1000))
    return [[[next(token) for _ in range(size)] for size in row] for row in sizes]


class TestCollatePacked:
    @given(packed_rows())
    @settings(max_examples=50)
    def test_tokens_positions_and_labels(self, rows):
        samples = [[{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in row] for row in rows]
        batch = collate_packed(samples, pad_token_id=0)
        for row, ids, labels, positions in zip(
            rows, batch["input_ids"], batch["labels"], batch["position_ids"], strict=True
        ):
            flat = [token for sample in row for token in sample]
            padding = len(ids) - len(flat)
            assert ids.tolist() == flat + [0] * padding
            expected = [position for sample in row for position in range(len(sample))]
            assert positions.tolist() == expected + list(range(padding))
            firsts = [[IGNORE_INDEX, *sample[1:]] for sample in row]
            assert labels.tolist() == [label for sample in firsts for label in sample] + [IGNORE_INDEX] * padding
        assert set(batch) == {"input_ids", "labels", "position_ids"}


@pytest.fixture(scope="module")
def samples(processor):
    conversations = [
        [user(noise_image(1), noise_image(2, 56, 112), "Compare.")],
        [user("What is the capital of France?")],
        [user(noise_image(3, 112, 56), "Describe.")],
        [user("Name a colour.")],
    ]
    encoded = [encode(processor, [conversation]) for conversation in conversations]
    return [
        {
            "input_ids": item["input_ids"][0],
            "labels": item["input_ids"][0],
            **{key: item[key] for key in ("pixel_values", "image_grid_thw") if key in item},
        }
        for item in encoded
    ]


@pytest.mark.model
class TestPackedForward:
    ROWS = ((0, 1), (3, 2, 1))

    def packed(self, samples):
        return collate_packed([[samples[index] for index in row] for row in self.ROWS], pad_token_id=0)

    def worst_difference(self, model, samples, batch) -> float:
        with torch.no_grad():
            logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
            worst = 0.0
            for row, row_logits in zip(self.ROWS, logits, strict=True):
                start = 0
                for index in row:
                    alone = {key: value for key, value in samples[index].items() if key != "labels"}
                    alone["input_ids"] = alone["input_ids"][None]
                    expected = model(**alone).logits[0]
                    difference = row_logits[start : start + len(expected)] - expected
                    worst = max(worst, (difference.norm() / expected.norm()).item())
                    start += len(expected)
        return worst

    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_logits_equal_those_of_each_sample_alone(self, model, samples, implementation):
        model.set_attn_implementation(implementation)
        worst = self.worst_difference(model, samples, self.packed(samples))
        model.set_attn_implementation("sdpa")
        assert worst < 1e-5

    def test_without_restarting_positions_they_differ(self, model, samples):
        batch = self.packed(samples)
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
        assert self.worst_difference(model, samples, batch) > 0.05

    def test_the_loss_is_the_mean_over_all_tokens_of_the_samples(self, model, samples):
        with torch.no_grad():
            packed = model(**self.packed(samples)).loss
            total, tokens = 0.0, 0
            for index in (index for row in self.ROWS for index in row):
                alone = {
                    key: value[None] if key in ("input_ids", "labels") else value
                    for key, value in samples[index].items()
                }
                count = alone["labels"].shape[1] - 1
                total, tokens = total + model(**alone).loss * count, tokens + count
        torch.testing.assert_close(packed, total / tokens)

    def test_the_loss_is_the_same_with_a_table_of_segments(self, model, samples):
        """Positions alone let transformers make a mask, the table needs none."""
        batch = self.packed(samples)
        length, segments = batch["input_ids"].shape[1], []
        for number, row in enumerate(self.ROWS):
            start = number * length
            for index in row:
                segments.append([start, len(samples[index]["input_ids"]), 0, 0])
                start += segments[-1][1]
        with torch.no_grad():
            by_positions = model(**batch).loss
            by_table = model(**batch, segments=torch.tensor(segments)).loss
            segments[:2] = [[0, segments[0][1] + segments[1][1], 0, 0]]
            by_wrong_table = model(**batch, segments=torch.tensor(segments)).loss
        torch.testing.assert_close(by_table, by_positions, rtol=1e-5, atol=0)
        assert abs(by_wrong_table - by_positions) > 1e-3
