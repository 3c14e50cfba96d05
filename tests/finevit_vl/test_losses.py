"""Mixture-of-experts language models: their router logits and load-balancing loss, as transformers' own give them."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from finevit_vl import FineViTVLForConditionalGeneration
from tests.support.vl_models import encode, noise_image, small_config, user

pytestmark = pytest.mark.model

EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "router_aux_loss_coef": 0.25,
}


@pytest.fixture(scope="module")
def experts(tokenizer):
    torch.manual_seed(0)
    return FineViTVLForConditionalGeneration(small_config(tokenizer, text=EXPERTS)).eval()


@pytest.fixture(scope="module")
def inputs(processor):
    conversations = [[user("Why does the sky look blue?")], [user("Hi")]]
    return {**encode(processor, conversations)}


def test_the_losses_are_those_of_the_language_model_alone(experts, inputs):
    """Without pictures the whole is its language model, padding included."""
    alone = AutoModelForCausalLM.from_config(experts.config.text_config)
    alone.load_state_dict(
        {
            **{f"model.{name}": tensor for name, tensor in experts.model.language_model.state_dict().items()},
            "lm_head.weight": experts.lm_head.weight,
        }
    )
    labels = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)
    options = {"labels": labels, "output_router_logits": True}
    with torch.no_grad():
        found, expected = experts(**inputs, **options), alone.eval()(**inputs, **options)
        plain = experts(**inputs, labels=labels)
    assert len(found.router_logits) == 2
    for ours, theirs in zip(found.router_logits, expected.router_logits, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.aux_loss, expected.aux_loss)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.loss, plain.loss + 0.25 * found.aux_loss)
    assert plain.aux_loss is None
    assert found.aux_loss > 1  # it counts


def test_the_config_asks_too_and_routers_learn(experts, processor, monkeypatch):
    monkeypatch.setattr(experts.config.text_config, "output_router_logits", True)
    batch = encode(processor, [[user(noise_image(1), "What?")]])
    output = experts(**batch)
    output.aux_loss.backward()
    gates = [parameter for name, parameter in experts.named_parameters() if name.endswith("mlp.gate.weight")]
    assert len(gates) == 2
    assert all(gate.grad.abs().sum() > 0 for gate in gates)


def test_a_language_model_without_experts_refuses(model, inputs):
    with pytest.raises(ValueError, match=r"\(qwen3\) has no experts"):
        model(**inputs, output_router_logits=True)
    assert model(**inputs).router_logits is None
