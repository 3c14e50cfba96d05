"""The sigmoid loss in tiles and around the ring: that of the whole matrix, in memory that grows with the pairs."""

import pytest
import torch
from torch.nn import functional as F

from modeling_finevit.pretraining import sigmoid_loss as module
from modeling_finevit.pretraining.sigmoid_loss import sigmoid_loss
from tests.support.dual_cases import make_embeds, plain_sigmoid_loss

pytestmark = pytest.mark.model


def with_gradients(loss, inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 17, 100])
def test_tiles_of_any_size_give_the_loss_and_gradients_of_the_whole_matrix(chunk_size):
    inputs = make_embeds(17)
    found = with_gradients(sigmoid_loss(*inputs, chunk_size=chunk_size), inputs)
    expected = with_gradients(plain_sigmoid_loss(*inputs), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_gradients_agree_with_finite_differences():
    images, texts, scale, bias = make_embeds(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *given: sigmoid_loss(*given, chunk_size=3), (images, texts, scale, bias))


def test_shuffled_pairs_have_another_loss():
    images, texts, scale, bias = make_embeds(17)
    assert sigmoid_loss(images, texts.roll(1, 0), scale, bias) > 1.2 * sigmoid_loss(images, texts, scale, bias)


def test_a_caption_that_fits_another_image_too_is_no_negative_of_it():
    inputs, captions = make_embeds(17), torch.arange(17) % 13
    found = with_gradients(sigmoid_loss(*inputs, chunk_size=5, caption_ids=captions), inputs)
    expected = with_gradients(plain_sigmoid_loss(*inputs, captions), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert sigmoid_loss(*inputs) - found[0] > 0.01
    assert torch.equal(sigmoid_loss(*inputs), sigmoid_loss(*inputs, caption_ids=torch.arange(17)))


def test_is_computed_in_float32_under_autocast_and_gives_gradients_in_the_dtype_of_the_embeddings():
    inputs = make_embeds(17)
    halves = [
        inputs[0].detach().bfloat16().requires_grad_(),
        inputs[1].detach().bfloat16().requires_grad_(),
        *inputs[2:],
    ]
    with torch.autocast("cpu", torch.bfloat16):
        loss = sigmoid_loss(*halves, chunk_size=5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain_sigmoid_loss(*(one.float() for one in halves)), rtol=1e-6, atol=1e-6)
    assert [gradient.dtype for gradient in torch.autograd.grad(loss, halves)] == [one.dtype for one in halves]


def saved_bytes(loss_of, pairs):
    """Storage that autograd keeps for backward, each once."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    inputs = make_embeds(pairs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(*inputs)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def test_what_is_saved_for_backward_grows_with_the_pairs_and_not_with_their_square():
    small, middle, large = (
        saved_bytes(lambda *given: sigmoid_loss(*given, chunk_size=256), n) for n in (1024, 2048, 4096)
    )
    assert small < 3 * 1024 * 16 * 4
    assert middle / small == pytest.approx(2, rel=0.01)
    assert large / middle == pytest.approx(2, rel=0.01)


def test_the_count_of_saved_bytes_sees_the_matrix_of_a_plain_loss():
    assert saved_bytes(plain_sigmoid_loss, 2048) > 3.5 * saved_bytes(plain_sigmoid_loss, 1024)


def test_no_temporary_is_larger_than_the_embeddings(monkeypatch):
    sizes = []
    plain = F.softplus
    monkeypatch.setattr(module.F, "softplus", lambda logits: (sizes.append(logits.numel()), plain(logits))[1])
    sigmoid_loss(*make_embeds(1000), chunk_size=100)
    assert len(sizes) == 100
    assert set(sizes) == {100 * 100}


def test_refuses_embeddings_without_partners():
    images, texts, scale, bias = make_embeds(4)
    with pytest.raises(ValueError, match="as many images as texts"):
        sigmoid_loss(images, texts[:3], scale, bias)
    with pytest.raises(ValueError, match="as many images as texts"):
        sigmoid_loss(images[:0], texts[:0], scale, bias)
    with pytest.raises(ValueError, match=r"4 .* \(3, 16\)"):
        sigmoid_loss(images[:3], texts[:3], scale, bias, pairs_per_rank=[4])


@pytest.mark.parametrize(
    "case",
    [
        *("1 rank", "2 ranks", "4 ranks", "4 ranks, uneven tiles"),
        *("2 uneven ranks", "4 uneven ranks", "4 ranks, repeated captions", "4 ranks, one with nothing"),
    ],
)
def test_ranks_together_have_the_loss_and_gradients_of_one_process(loss_ranks, case):
    assert max(found[case] for found in loss_ranks if case in found) < 1e-6


def test_a_ring_that_skips_a_rank_is_found(loss_ranks):
    assert max(found["4 ranks, one skipped"] for found in loss_ranks) > 1e-2
