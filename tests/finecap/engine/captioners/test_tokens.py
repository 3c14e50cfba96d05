"""Tokens that nobody counted: near what Qwen2.5-VL's own processor counts."""

import io

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from finecap.engine.captioners.tokens import TYPICAL_PIXELS, prompt_tokens, text_tokens


def encoded(width, height, file_format):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("width", "height"), [(1344, 1008), (448, 448), (640, 480), (1000, 300)])
def test_a_picture_has_the_tokens_of_its_pixels(width, height, file_format):
    high, wide = smart_resize(height, width, factor=28, min_pixels=4 * 784, max_pixels=16384 * 784)
    assert prompt_tokens("", [encoded(width, height, file_format)]) == pytest.approx(high * wide / 784, rel=0.06)


def test_pictures_and_text_add_up():
    picture = encoded(280, 280, "PNG")
    assert prompt_tokens("Describe this.", [picture, picture]) == 2 * prompt_tokens("", [picture]) + text_tokens(
        "Describe this."
    )
    assert prompt_tokens("", []) == 0


def test_a_picture_that_cannot_be_read_counts_as_a_usual_one():
    assert prompt_tokens("", [b"\xff\xd8\xff nonsense"]) == -(-TYPICAL_PIXELS // 784)


def test_texts_of_every_script_have_tokens():
    assert text_tokens("The quick brown fox jumps over the lazy dog near the river bank.") == pytest.approx(14, abs=4)
    assert text_tokens("敏捷的棕色狐狸跳过懒狗") == pytest.approx(10, abs=4)
    assert text_tokens("half \ud83d") > 0
    assert text_tokens("") == 0
