"""Gradient caching: a step chunk by chunk is the plain step, with dropout and over ranks."""

import torch
from torch import nn

from modeling_finevit.pretraining.gradient_cache import cached_backward
from modeling_finevit.pretraining.sigmoid_loss import sigmoid_loss
from tests.support.dual_cases import make_dual, make_pairs, make_processor


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_two_passes_over_ragged_pictures_give_the_gradients_of_one_step():
    processor = make_processor()
    plain, cached = make_dual(processor), make_dual(processor)
    pairs = make_pairs(processor)
    plain(**pairs, return_loss=True).loss.backward()
    patches = pairs["image_grid_thw"].prod(-1).split([4, 2])
    chunks = [
        {"pixel_values": pixels, "image_grid_thw": grid, "input_ids": ids}
        for pixels, grid, ids in zip(
            pairs["pixel_values"].split([int(of_chunk.sum()) for of_chunk in patches]),
            pairs["image_grid_thw"].split([4, 2]),
            pairs["input_ids"].split([4, 2]),
            strict=True,
        )
    ]

    def encode(chunk):
        outputs = cached(**chunk)
        return (outputs.image_embeds, outputs.text_embeds), (outputs.logit_scale, outputs.logit_bias)

    loss = cached_backward(encode, chunks, lambda embeds, others: sigmoid_loss(*embeds, *others))
    torch.testing.assert_close(loss, plain(**pairs, return_loss=True).loss, rtol=1e-6, atol=1e-6)
    expected = gradients(plain)
    assert gradients(cached).keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in gradients(cached).items():
        assert (gradient - expected[name]).abs().max() < 1e-6 * largest, name


def test_an_autocast_around_both_passes_takes_no_gradient_away():
    layer = nn.Linear(4, 4)
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        cached_backward(
            lambda chunk: ((layer(chunk["rows"]).float(),), ()),
            [{"rows": part} for part in rows.split(2)],
            lambda embeds, _: embeds[0].square().sum(),
        )
    assert layer.weight.grad.abs().sum() > 0


def test_dropout_drops_the_same_in_both_passes():
    class Constant(nn.Module):
        """Its embeddings are its weights with dropout, so a weight that was dropped has no gradient."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 64))
            self.seen = []

        def forward(self, rows):
            self.seen.append(nn.functional.dropout(self.weight[rows], 0.5))
            return self.seen[-1:], ()

    torch.manual_seed(0)
    model = Constant()
    chunks = [{"rows": slice(0, 3)}, {"rows": slice(3, 4)}]
    cached_backward(lambda chunk: model(**chunk), chunks, lambda embeds, _: embeds[0].sum())
    first, second = torch.cat(model.seen[:2]), torch.cat(model.seen[2:])
    assert torch.equal(first, second)
    assert torch.equal(model.weight.grad, first)
    following = torch.rand(1)
    torch.manual_seed(0)
    nn.functional.dropout(torch.ones(3, 64)), nn.functional.dropout(torch.ones(1, 64))
    assert torch.equal(torch.rand(1), following)


def test_under_ddp_it_is_the_plain_step_of_one_process(loss_ranks):
    assert max(found["cached, 2 ranks"] for found in loss_ranks[:2]) < 1e-6


def test_the_comparison_under_ddp_sees_that_ranks_did_not_exchange(loss_ranks):
    assert min(found["cached, 2 ranks, without the last exchange"] for found in loss_ranks[:2]) > 1e-4
