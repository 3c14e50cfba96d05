"""FineViTDualProcessor: a text has one embedding, however the tokenizer was called and in whatever company."""

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, GemmaTokenizer, PreTrainedTokenizerFast

from finevit_vl.tokenizer import build_qwen_tokenizer
from modeling_finevit import FineViTDualProcessor, FineViTImageProcessorPil
from tests.support.dual_cases import CAPTIONS, TEXT_LENGTH, make_dual, make_processor, small_siglip2_tokenizer

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def embed(processor):
    model = make_dual(processor)
    return lambda inputs: model.get_text_features(inputs["input_ids"], inputs.get("attention_mask")).pooler_output


@pytest.fixture(scope="module")
def expected(processor, embed):
    return embed(processor(text=CAPTIONS, return_tensors="pt"))


@pytest.mark.parametrize(
    "asked",
    [
        {"padding": True},
        {"padding": False},
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 64},
        {"padding_side": "left"},
        {"truncation": False},
        {"add_special_tokens": False},
        {"text_kwargs": {"padding": "longest", "padding_side": "left"}},
    ],
)
def test_the_processor_makes_one_form_whatever_is_asked(processor, asked):
    plain = processor(text=CAPTIONS, return_tensors="pt")
    found = processor(text=CAPTIONS, return_tensors="pt", **asked)
    assert set(found) == {"input_ids"}
    assert found["input_ids"].shape == (len(CAPTIONS), TEXT_LENGTH)
    assert torch.equal(found["input_ids"], plain["input_ids"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "asked", [{"padding": True}, {"padding": "longest"}, {"padding": "max_length", "max_length": 20}]
)
def test_the_tokenizer_by_itself_leads_to_the_same_embeddings(processor, embed, expected, side, asked):
    inputs = processor.tokenizer(CAPTIONS, return_tensors="pt", padding_side=side, **asked)
    assert torch.equal(embed(inputs), expected)
    assert torch.equal(embed({"input_ids": inputs["input_ids"]}), expected)


def test_a_text_alone_without_padding_and_in_upper_case_has_its_embedding_in_a_batch(processor, embed, expected):
    for caption, one in zip(CAPTIONS, expected, strict=True):
        torch.testing.assert_close(embed(processor(text=caption, return_tensors="pt"))[0], one, atol=1e-6, rtol=1e-6)
        alone = processor.tokenizer([caption.upper()], return_tensors="pt")
        torch.testing.assert_close(embed(alone)[0], one, atol=1e-6, rtol=1e-6)


def test_other_words_have_another_embedding(processor, embed, expected):
    assert (embed(processor(text=CAPTIONS[1:2], return_tensors="pt"))[0] - expected[0]).abs().max() > 1e-3


def test_long_texts_are_cut_to_the_length_by_whoever_makes_them(processor, embed):
    long = ["a word " * 100]
    inputs = processor(text=long, return_tensors="pt")
    assert inputs.input_ids.shape == (1, TEXT_LENGTH)
    assert (inputs.input_ids != processor.tokenizer.pad_token_id).all()
    assert torch.equal(embed(processor.tokenizer(long, return_tensors="pt")), embed(inputs))


def test_pictures_are_resized_by_native_resolution_beside_the_texts(processor):
    images = [Image.new("RGB", (100, 60)), Image.new("RGB", (56, 200))]
    inputs = processor(images=images, text=CAPTIONS[:2], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 8], [1, 14, 4]]
    assert set(processor(images=images, return_tensors="pt")) == {"pixel_values", "image_grid_thw"}


def test_a_list_without_any_text_is_refused_and_no_text_is_none(processor):
    image = Image.new("RGB", (100, 60))
    for given in ({"text": []}, {"images": [image], "text": []}):
        with pytest.raises(ValueError, match="text is empty; expected at least one caption"):
            processor(**given)
    assert "input_ids" not in processor(images=[image])


def gemma():
    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3} | {letter: 4 + n for n, letter in enumerate("abcABC▁")}
    return GemmaTokenizer(vocab=vocab, merges=[])


@pytest.mark.parametrize("make", [gemma, small_siglip2_tokenizer, lambda: build_qwen_tokenizer(300)])
def test_upper_case_is_read_as_lower_case_also_by_the_tokenizer_that_was_saved(make, tmp_path):
    FineViTDualProcessor(FineViTImageProcessorPil(), make(), text_length=8).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("ABC cab").input_ids == loaded("abc CAB").input_ids
    assert loaded("abc").input_ids != loaded("cab").input_ids
    assert loaded.pad_token_id == make().pad_token_id


def test_needs_a_tokenizer_that_can_pad():
    tokenizer = build_qwen_tokenizer(300)
    unpadded = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    for lacking in (None, unpadded):
        with pytest.raises(ValueError, match="needs a tokenizer with a pad token"):
            FineViTDualProcessor(FineViTImageProcessorPil(), lacking)
