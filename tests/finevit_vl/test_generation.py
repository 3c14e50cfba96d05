"""What transformers' generate offers works on ragged batches of two, no and one picture, and the pictures matter."""

import copy

import pytest
import torch
from transformers import GenerationMixin

from tests.support.vl_models import encode, noise_image, user

pytestmark = pytest.mark.model

NEW_TOKENS = 8
ENCODES_BEFORE_PREFILL = hasattr(GenerationMixin, "_prepare_multimodal_encoder_kwargs_for_generation")


def generate(model, batch, **kwargs):
    kwargs = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs}
    with torch.no_grad():
        output = model.generate(**batch, **kwargs)
    return output[:, batch["input_ids"].shape[1] :]


@pytest.fixture(scope="module")
def greedy(shared_model, batch):
    return generate(shared_model, batch)


def test_rows_differ_and_are_varied(greedy):
    assert len({tuple(row.tolist()) for row in greedy}) == 3
    assert all(len(set(row.tolist())) > 2 for row in greedy)


def test_wrong_pictures_change_the_rows_with_pictures_and_no_other(model, batch, greedy):
    wrong = generate(model, {**batch, "pixel_values": -batch["pixel_values"].flip(0)})
    changed = (wrong != greedy).any(-1).tolist()
    assert changed == [True, False, True]


def test_a_batch_answers_as_each_row_alone(model, processor, conversations, greedy):
    for row, conversation in enumerate(conversations):
        alone = generate(model, encode(processor, [conversation]))
        assert alone[0].tolist() == greedy[row].tolist()


def test_beams_of_a_batch_equal_beams_of_each_row_alone(model, processor, conversations, batch, greedy):
    beams = generate(model, batch, num_beams=3)
    for row, conversation in enumerate(conversations):
        alone = generate(model, encode(processor, [conversation]), num_beams=3)
        assert alone[0].tolist() == beams[row].tolist()
    assert beams.tolist() != greedy.tolist()


def test_several_returns_repeat_each_row_with_its_own_pictures(model, batch, greedy):
    returns = generate(model, batch, do_sample=True, top_k=1, num_return_sequences=2)
    assert returns.tolist() == greedy.repeat_interleave(2, dim=0).tolist()


def test_several_beams_can_be_returned(model, batch):
    returns = generate(model, batch, num_beams=3, num_return_sequences=2)
    best = generate(model, batch, num_beams=3)
    assert returns[::2].tolist() == best.tolist()
    assert returns[::2].tolist() != returns[1::2].tolist()


def test_without_cache_and_with_a_static_cache_the_answer_is_the_same(model, batch, greedy):
    assert generate(model, batch, use_cache=False).tolist() == greedy.tolist()
    assert generate(model, batch, cache_implementation="static").tolist() == greedy.tolist()


@pytest.mark.skipif(not ENCODES_BEFORE_PREFILL, reason="this transformers cannot split pictures over prefill chunks")
def test_chunked_prefill_gives_the_same_answer(model, batch, greedy):
    assert batch["input_ids"].shape[1] > 2 * 7
    assert generate(model, batch, prefill_chunk_size=7).tolist() == greedy.tolist()


@pytest.fixture
def picture_prompt(processor):
    return encode(processor, [[user(noise_image(5), "Read the text. Read the text. Read")]])


def test_assisted_decoding_equals_greedy(model, picture_prompt):
    assistant = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    assert generate(assistant, picture_prompt).tolist() != generate(model, picture_prompt).tolist()
    assisted = generate(model, picture_prompt, assistant_model=assistant)
    assert assisted.tolist() == generate(model, picture_prompt).tolist()


def test_prompt_lookup_decoding_equals_greedy(model, picture_prompt):
    looked_up = generate(model, picture_prompt, prompt_lookup_num_tokens=4)
    assert looked_up.tolist() == generate(model, picture_prompt).tolist()


def test_prompt_lookup_needs_the_suppressed_tokens(model, picture_prompt):
    """The prompt's last newline also stands before `<|vision_start|><|image_pad|>`, which is what lookup copies."""
    with pytest.raises((ValueError, RuntimeError), match="Image features and image tokens do not match"):
        generate(model, picture_prompt, prompt_lookup_num_tokens=4, suppress_tokens=None)


def test_image_tokens_are_never_generated(model, batch):
    """Even by a model that wants nothing else."""
    head = model.lm_head.weight.detach().clone()
    ids = [model.config.image_token_id, model.config.vision_start_token_id, model.config.vision_end_token_id]
    eager = copy.deepcopy(model)
    hidden = eager.model(**batch).last_hidden_state[:, -1].mean(0)
    with torch.no_grad():
        eager.lm_head.weight[ids[0]] = 100 * hidden
    assert eager(**batch).logits[:, -1].argmax(-1).tolist().count(ids[0]) >= 2
    answers = generate(eager, batch)
    assert not any((answers == token).any() for token in ids)
    assert torch.equal(head, model.lm_head.weight)


def test_sampling_is_repeatable_under_a_seed(model, batch):
    torch.manual_seed(3)
    first = generate(model, batch, do_sample=True)
    torch.manual_seed(3)
    assert generate(model, batch, do_sample=True).tolist() == first.tolist()
