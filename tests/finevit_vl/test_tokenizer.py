"""The tokenizer made from Qwen's ranks against tiktoken, which reads the same ranks with code of its own."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finevit_vl.tokenizer import (
    _SPLIT_PATTERN,
    IMAGE_TOKEN,
    PLAIN_ADDED_TOKENS,
    SPECIAL_TOKENS,
    _read_ranks,
    add_missing_tokens,
    build_qwen_tokenizer,
)

TEXTS = [
    "Hello, world! It's 1,234.5 km — isn't it?",
    "def f(x):\n\treturn x ** 2  # ok\r\n\r\n",
    "漢字とカタカナ، العربية हिन्दी ไทย 🎉👩‍👩‍👧 e\u0301 ﬁ",
    "   leading and trailing   ",
    "Rechnung Nr. 2025-0417, Summe: 1.299,00 €",
]


@pytest.fixture(scope="module")
def full():
    return build_qwen_tokenizer()


def tiktoken_ids(text: str, num_ranks: int) -> list[int]:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is the independent reading of the ranks")
    encoding = tiktoken.Encoding(
        "qwen", pat_str=_SPLIT_PATTERN, mergeable_ranks=_read_ranks(num_ranks), special_tokens={}
    )
    return encoding.encode(unicodedata.normalize("NFC", text), disallowed_special=())


@pytest.mark.parametrize("num_ranks", [256, 1024, 151_643])
def test_encodes_as_tiktoken_does(full, num_ranks):
    tokenizer = full if num_ranks == 151_643 else build_qwen_tokenizer(num_ranks)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == tiktoken_ids(text, num_ranks), text
    assert tokenizer(TEXTS[0])["input_ids"] != tiktoken_ids(TEXTS[0].lower(), num_ranks)


def test_the_full_vocabulary_has_qwen3s_ids(full):
    assert len(full) == 151_669
    expected = {
        "<|endoftext|>": 151_643,
        "<|im_start|>": 151_644,
        "<|im_end|>": 151_645,
        "<|object_ref_start|>": 151_646,
        "<|box_start|>": 151_648,
        "<|box_end|>": 151_649,
        "<|vision_start|>": 151_652,
        "<|vision_end|>": 151_653,
        "<|image_pad|>": 151_655,
        "<tool_call>": 151_657,
        "<think>": 151_667,
        "</think>": 151_668,
        "!": 0,
    }
    assert {token: full.convert_tokens_to_ids(token) for token in expected} == expected


def test_a_small_vocabulary_is_a_prefix_with_the_same_added_tokens_behind_it(full, tokenizer):
    assert len(tokenizer) == 1024 + 26
    assert tokenizer.convert_ids_to_tokens(range(1024)) == full.convert_ids_to_tokens(range(1024))
    assert tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *PLAIN_ADDED_TOKENS]) == list(range(1024, 1050))


@given(st.text(max_size=80))
@settings(max_examples=200)
def test_any_text_comes_back_in_its_composed_form(text):
    tokenizer = _small()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


_SMALL = {}


def _small():
    return _SMALL.setdefault("tokenizer", build_qwen_tokenizer(512))


def test_special_tokens_are_dropped_and_plain_ones_kept(tokenizer):
    ids = tokenizer("<|im_start|><think>a</think><|box_start|>")["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"


def test_pads_left_with_endoftext_and_stops_at_im_end(tokenizer):
    batch = tokenizer(["a", "a b c"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert tokenizer.decode(batch["input_ids"][0]) == "<|endoftext|>" * (len(batch["input_ids"][1]) - 1) + "a"
    assert tokenizer.eos_token == "<|im_end|>"


def test_save_and_load_keep_ids_and_settings(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.padding_side == "left"
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("num_ranks", [255, 151_644])
def test_an_impossible_size_is_refused(num_ranks):
    with pytest.raises(ValueError, match="between 256"):
        build_qwen_tokenizer(num_ranks)


def test_a_foreign_tokenizer_gets_what_it_lacks_once():
    tokenizer = _foreign_tokenizer()
    added = add_missing_tokens(tokenizer)
    assert IMAGE_TOKEN in added
    assert "<|im_start|>" in added
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer(f"{IMAGE_TOKEN}<|box_start|>")["input_ids"]) == 2
    size = len(tokenizer)
    assert add_missing_tokens(tokenizer) == []
    assert len(tokenizer) == size


def test_qwens_own_tokenizer_lacks_nothing(tokenizer):
    assert add_missing_tokens(tokenizer) == []


def _foreign_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
