"""Chat text and pictures to model inputs: the template, the image tokens, the loss masks, the errors."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor
from transformers.processing_utils import ProcessorMixin

from finevit_vl import FineViTVLProcessor
from finevit_vl.processing_finevit_vl import load_chat_template
from tests.support.vl_models import encode, noise_image, user

TRANSFORMERS_PLACES_MASKS = hasattr(ProcessorMixin, "_adjust_assistant_masks_indices")


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


MULTI_TURN = [
    {"role": "system", "content": "Be brief."},
    user(noise_image(1), "What colour?"),
    assistant("Red."),
    user("And ", "the other", noise_image(2, 56, 56)),
    {"role": "assistant", "content": "Blue \n "},
]


class TestTemplate:
    def test_is_chatml_without_a_system_prompt_of_its_own(self, processor):
        text = processor.apply_chat_template([user(noise_image(1), "Why?")], add_generation_prompt=True)
        assert text == (
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_multi_turn(self, processor):
        assert processor.apply_chat_template(MULTI_TURN) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What colour?<|im_end|>\n"
            "<|im_start|>assistant\nRed.<|im_end|>\n"
            "<|im_start|>user\nAnd the other<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
            "<|im_start|>assistant\nBlue \n <|im_end|>\n"
        )

    def test_an_unknown_part_is_refused(self, processor):
        for kind in ("video", "audio"):
            message = {"role": "user", "content": [{"type": kind, "url": "http://127.0.0.1:9/x"}]}
            for conversation in ([message], [[message]]):
                with pytest.raises(ValueError, match=f'Unknown content type "{kind}"'):
                    processor.apply_chat_template(conversation, tokenize=True, return_dict=True)

    def test_the_prompt_of_a_question_is_the_beginning_of_the_answered_conversation(self, processor):
        prompt = processor.apply_chat_template(MULTI_TURN[:2], add_generation_prompt=True)
        assert processor.apply_chat_template(MULTI_TURN).startswith(prompt + "Red.<|im_end|>")


def masked_text(processor, batch) -> list[str]:
    return [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True)
    ]


def encode_with_masks(processor, conversations):
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    )


@pytest.mark.skipif(not TRANSFORMERS_PLACES_MASKS, reason="this transformers misplaces masks behind pictures")
class TestLossMask:
    def test_covers_what_the_assistant_says_and_its_end_and_nothing_else(self, processor):
        batch = encode_with_masks(processor, [MULTI_TURN, [user("Hi"), assistant("Hello <b>!")]])
        assert masked_text(processor, batch) == ["Red.<|im_end|>Blue \n <|im_end|>", "Hello <b>!<|im_end|>"]

    def test_never_covers_an_image_token(self, processor):
        batch = encode_with_masks(processor, [MULTI_TURN, [user("Hi"), assistant("Hello")]])
        image = batch["input_ids"] == processor.image_token_id
        assert image.sum() > 1
        assert not (image & batch["assistant_masks"].bool()).any()

    def test_is_empty_without_an_assistant(self, processor):
        assert encode_with_masks(processor, [[user(noise_image(1), "Hi")]])["assistant_masks"].sum() == 0

    @given(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="<|"), max_size=12), min_size=1, max_size=3)
    )
    @settings(max_examples=25, deadline=None)
    def test_covers_any_answers(self, answers):
        processor = _processor()
        conversation = [user(noise_image(1), "Q")]
        for answer in answers:
            conversation += [assistant(answer), user("next")]
        expected = processor.tokenizer.decode(
            processor.tokenizer("".join(f"{answer.lstrip()}<|im_end|>" for answer in answers))["input_ids"]
        )
        assert masked_text(processor, encode_with_masks(processor, [conversation])) == [expected]


@pytest.mark.skipif(TRANSFORMERS_PLACES_MASKS, reason="only for a transformers that misplaces masks")
def test_masks_from_a_transformers_that_misplaces_them_are_refused(processor):
    with pytest.raises(ValueError, match=f"transformers {transformers.__version__} misplaces"):
        encode_with_masks(processor, [MULTI_TURN])


_PROCESSOR = []


def _processor() -> FineViTVLProcessor:
    """One for all examples of a property test, which may not use the fixtures of a function."""
    if not _PROCESSOR:
        from finevit_vl import build_qwen_tokenizer
        from modeling_finevit import FineViTImageProcessorPil

        _PROCESSOR.append(FineViTVLProcessor(FineViTImageProcessorPil(), build_qwen_tokenizer(512)))
    return _PROCESSOR[0]


@pytest.mark.model
class TestImages:
    @given(st.lists(st.tuples(st.integers(15, 300), st.integers(15, 300)), min_size=1, max_size=3))
    @settings(max_examples=25, deadline=None)
    def test_every_picture_gets_one_token_for_every_merged_patch(self, sizes):
        processor = _processor()
        images = [noise_image(0, *size) for size in sizes]
        batch = processor(
            text=["<|image_pad|>text" * len(images)], images=images, return_tensors="pt", add_special_tokens=False
        )
        tokens = (batch["input_ids"] == processor.image_token_id).sum()
        assert tokens == len(batch["pixel_values"]) // 4 == batch["image_grid_thw"].prod(-1).sum() // 4
        planned = processor._get_num_multimodal_tokens([(height, width) for width, height in sizes])
        assert planned["num_image_tokens"] == (batch["image_grid_thw"].prod(-1) // 4).tolist()
        assert planned["num_image_patches"] == batch["image_grid_thw"].prod(-1).tolist()

    def test_a_ragged_batch_is_padded_on_the_left(self, processor, batch):
        assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 8, 4], [1, 8, 8]]
        counts = (batch["input_ids"] == processor.image_token_id).sum(-1).tolist()
        assert counts == [6 + 8, 0, 16]
        assert batch["attention_mask"][:, -1].tolist() == [1, 1, 1]
        assert batch["attention_mask"][1, 0] == 0
        assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "image_grid_thw"}

    def test_texts_alone_work_with_and_without_empty_lists_of_pictures(self, processor):
        plain = processor(text=["a", "b c"], padding=True)
        assert set(plain) == {"input_ids", "attention_mask"}
        assert processor(text=["a", "b c"], images=[[], []], padding=True)["input_ids"] == plain["input_ids"]

    @pytest.mark.parametrize("kind", ["image", "path", "url", "base64", "image_url"])
    def test_a_transparent_picture_is_white_however_a_message_names_it(self, processor, tmp_path, kind):
        buffer = io.BytesIO()
        Image.new("RGBA", (84, 56), (0, 0, 0, 0)).save(buffer, "PNG")
        (tmp_path / "a.png").write_bytes(buffer.getvalue())
        text = base64.b64encode(buffer.getvalue()).decode()
        source: Any = {"image": Image.open(buffer), "path": str(tmp_path / "a.png"), "base64": text}.get(
            kind, f"data:image/png;base64,{text}"
        )
        part = {"type": "image", kind: source}
        if kind == "image_url":
            part = {"type": "image_url", "image_url": {"url": source}}
        found = encode(processor, [[{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]])
        expected = encode(processor, [[user(Image.new("RGB", (84, 56), "white"), "What?")]])
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
        assert torch.equal(found["input_ids"], expected["input_ids"])

    def test_a_numpy_picture_equals_the_same_pil_picture(self, processor):
        image = noise_image(4)
        inputs = [
            processor(text="<|image_pad|>", images=each, return_tensors="pt") for each in (image, np.asarray(image))
        ]
        assert torch.equal(inputs[0]["pixel_values"], inputs[1]["pixel_values"])


@pytest.mark.model
class TestErrors:
    def test_more_placeholders_than_pictures(self, processor):
        with pytest.raises(ValueError, match=r"2 <\|image_pad\|> .*1 (images|pictures)|Found total 2"):
            processor(text=["<|image_pad|><|image_pad|>"], images=[noise_image(1)])
        with pytest.raises(ValueError, match=r"1 <\|image_pad\|>"):
            processor(text=["<|image_pad|>"])

    def test_right_in_sum_but_wrong_by_row(self, processor):
        with pytest.raises(ValueError, match=r"Text 0 holds 1 .*comes with 2 pictures"):
            processor(text=["<|image_pad|>", "<|image_pad|>"], images=[[noise_image(1), noise_image(2)], []])

    def test_truncation_that_cuts_image_tokens_is_refused(self, processor):
        with pytest.raises(ValueError, match="image"):
            encode_truncated(processor)

    def test_a_tokenizer_without_image_tokens_is_refused(self, processor):
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        foreign = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
        with pytest.raises(ValueError, match=r"lacks <\|image_pad\|>.*from_vision_text_pretrained"):
            FineViTVLProcessor(processor.image_processor, foreign)


def encode_truncated(processor):
    return processor(
        text=["some words <|image_pad|>"], images=[noise_image(1)], truncation=True, max_length=4, return_tensors="pt"
    )


@pytest.mark.model
def test_save_and_load_give_the_same_inputs(processor, conversations, batch, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    assert isinstance(loaded, FineViTVLProcessor)
    assert loaded.chat_template == load_chat_template()
    again = encode(loaded, conversations)
    assert all(torch.equal(again[key], batch[key]) for key in batch)


@pytest.mark.model
def test_decoding_drops_special_tokens_and_keeps_coordinates(processor):
    ids = processor.tokenizer("<|box_start|>(1,2),(3,4)<|box_end|><|im_end|>")["input_ids"]
    assert processor.post_process_image_text_to_text([ids]) == ["(1,2),(3,4)"]
    assert processor.post_process_image_text_to_text([ids], skip_special_tokens=False)[0].startswith("<|box_start|>")
