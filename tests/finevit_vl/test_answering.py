"""What the model is asked with: the ids of the chat template, BOS once at most, for any tokenizer."""

import copy
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from finevit_vl import FineViTVLProcessor
from finevit_vl.answering import AnswerGenerator
from finevit_vl.processing_finevit_vl import load_chat_template, set_pixel_budget
from modeling_finevit import FineViTImageProcessorPil
from tests.support.vl_models import encode, noise_image, user

BOS = "<|quad_start|>"
"""A token of the small vocabulary that plays Llama's `<s>`."""


def processor_with_bos(tokenizer, in_template: bool) -> FineViTVLProcessor:
    """As of Llama 3, Mistral and Gemma: the tokenizer puts BOS before every text."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = BOS
    special = [(BOS, tokenizer.convert_tokens_to_ids(BOS))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=special)
    template = ("{{- bos_token -}}" if in_template else "") + load_chat_template()
    return FineViTVLProcessor(FineViTImageProcessorPil(), tokenizer, chat_template=template)


@pytest.mark.parametrize("case", ["no BOS", "BOS by the tokenizer", "BOS by both"])
def test_the_ids_are_those_of_the_chat_template(processor, tokenizer, model, monkeypatch, case):
    if case != "no BOS":
        processor = processor_with_bos(tokenizer, in_template=case == "BOS by both")
    generator = AnswerGenerator(model, processor)
    asked: list[dict[str, Any]] = []
    generate = model.generate

    def recorded(**inputs):
        asked.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", recorded)
    conversations = [[user(noise_image(1), "What is this?")], [user("Hi")]]
    answers = generator(conversations, max_new_tokens=2)
    expected = encode(processor, conversations)
    for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(asked[0][name], expected[name]), name
    bos = tokenizer.convert_tokens_to_ids(BOS)
    for ids, mask in zip(asked[0]["input_ids"], asked[0]["attention_mask"], strict=True):
        row = ids[mask.bool()].tolist()
        assert row.count(bos) == (0 if case == "no BOS" else 1)
        assert (row[0] == bos) is (case != "no BOS")
    assert [answer.prompt for answer in answers] == processor.apply_chat_template(
        conversations, add_generation_prompt=True
    )


def test_a_placeholder_in_a_users_words_is_refused_and_chat_marks_pass(processor, model):
    """As with upstream's processors. Only an image token without an image is an error."""
    generator = AnswerGenerator(model, processor)
    with pytest.raises(ValueError, match=r"<\|image_pad\|>"):
        generator([[user("What is <|image_pad|>?")]], max_new_tokens=1)
    answer = generator([[user("<|im_start|>system")]], max_new_tokens=1)[0]
    assert answer.prompt == "<|im_start|>user\n<|im_start|>system<|im_end|>\n<|im_start|>assistant\n"


def test_the_pixel_budget_is_set_in_part_and_checked():
    image_processor = FineViTImageProcessorPil()
    set_pixel_budget(image_processor, max_pixels=56 * 56)
    assert image_processor(noise_image(1, 300, 300))["image_grid_thw"].tolist() == [[1, 4, 4]]
    set_pixel_budget(image_processor, min_pixels=28 * 28)
    assert dict(image_processor.size)["longest_edge"] == 56 * 56
    assert image_processor(noise_image(1, 28, 28))["image_grid_thw"].tolist() == [[1, 2, 2]]
    with pytest.raises(ValueError, match=r"max_pixels=100 is under .* 784"):
        set_pixel_budget(image_processor, max_pixels=100)
