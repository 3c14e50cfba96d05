"""A FineViT-VL from a FineViT folder and a language model folder: Qwen3, Qwen2 or Llama, tied or not."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from finevit_vl import FineViTVLConfig, FineViTVLForConditionalGeneration, FineViTVLProcessor
from modeling_finevit import FineViTConfig, FineViTImageProcessorPil, FineViTModel
from modeling_finevit.conversion import from_qwen2_5_vl
from tests.support.encoder_cases import relative_error
from tests.support.qwen_vl import GRID, make_qwen2_5_vl, still_patches
from tests.support.vl_models import encode, noise_image, user

pytestmark = pytest.mark.model

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finevit")
    torch.manual_seed(1)
    FineViTModel(FineViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)).save_pretrained(folder)
    FineViTImageProcessorPil().save_pretrained(folder)
    return folder


def word_tokenizer():
    """A language model's tokenizer that knows nothing of pictures, chats or padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: index for index, word in enumerate(["<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz", ".", "?"])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")


def save_language_model(folder, config, tokenizer):
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


CASES = {
    "qwen3 tied": (Qwen3Config, True),
    "qwen3 untied": (Qwen3Config, False),
    "qwen2 tied": (Qwen2Config, True),
    "llama untied": (LlamaConfig, False),
}


@pytest.mark.parametrize("case", CASES)
def test_joined_from_folders(case, vision_folder, tmp_path):
    config_class, tied = CASES[case]
    extra: dict[str, Any] = {"head_dim": 32} if config_class is Qwen3Config else {}
    tokenizer = word_tokenizer()
    known = len(tokenizer)
    config = config_class(**SHAPE, **extra, vocab_size=known, tie_word_embeddings=tied, eos_token_id=1)
    text = save_language_model(tmp_path / "text", config, tokenizer)

    processor = FineViTVLProcessor.from_vision_text_pretrained(vision_folder, tmp_path / "text")
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision_folder, tmp_path / "text", processor)

    assert (
        model.config.image_token_id
        == processor.image_token_id
        == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    )
    assert model.lm_head.weight.shape[0] == model.config.text_config.vocab_size == len(processor.tokenizer) > known
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    embedding: Any = model.get_input_embeddings()
    assert torch.equal(embedding.weight[:known], text.get_input_embeddings().weight)
    assert not any(parameter.is_meta for parameter in model.parameters())

    # What it says about text is what the language model said.
    ids = torch.tensor([[5, 9, 12, 3]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits[..., :known], text.eval()(input_ids=ids).logits)

    # Its tower is the given tower, and a round trip through a folder changes nothing.
    batch = encode(processor, [[user(noise_image(1), "a b c ?")], [user("d")]])
    tower = FineViTModel.from_pretrained(vision_folder)
    with torch.no_grad():
        features: Any = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        assert torch.equal(
            features.last_hidden_state, tower(batch["pixel_values"], batch["image_grid_thw"]).last_hidden_state
        )
        model.save_pretrained(tmp_path / "vl")
        processor.save_pretrained(tmp_path / "vl")
        loaded = FineViTVLForConditionalGeneration.from_pretrained(tmp_path / "vl")
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied


@pytest.mark.parametrize(
    ("model_type", "fields", "refused"),
    [
        ("gemma2", {}, True),
        ("gemma2", {"final_logit_softcapping": None}, False),
        ("cohere", {}, True),
        ("granite", {"logits_scaling": 4.0}, True),
        ("granite", {}, False),
        ("falcon_h1", {"lm_head_multiplier": 0.5}, True),
        ("qwen3", {}, False),
    ],
)
def test_a_configuration_whose_logits_would_be_others_is_refused_from_scratch_too(model_type, fields, refused):
    text = {"model_type": model_type, **fields}
    with pytest.raises(ValueError, match=f"{model_type} scales or caps") if refused else nullcontext():
        FineViTVLConfig(text_config=text)
    with pytest.raises(ValueError, match=f"{model_type} scales or caps") if refused else nullcontext():
        FineViTVLConfig.from_size("nano", text_config=text)


def test_a_configuration_of_several_parts_is_no_language_model():
    with pytest.raises(ValueError, match="fuyu is no language model but one of several parts"):
        FineViTVLConfig(text_config={"model_type": "fuyu"})


@pytest.mark.parametrize(
    ("config_class", "extra", "word"),
    [
        (Gemma2Config, {"final_logit_softcapping": 30.0}, "scales or caps"),
        (Gemma2Config, {"final_logit_softcapping": None}, None),
        (CohereConfig, {"logit_scale": 0.25}, "scales or caps"),
        (GraniteConfig, {"logits_scaling": 4.0}, "scales or caps"),
        (GraniteConfig, {"logits_scaling": 1.0}, None),
        (PhiConfig, {}, "a head with a bias"),
    ],
)
def test_a_language_model_with_more_than_a_head_is_refused(config_class, extra, word, vision_folder, tokenizer):
    """Its logits would be others than they were: Gemma 2's uncapped, Granite's four times as large."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = config_class(**SHAPE, **extra, **ids, head_dim=16, vocab_size=len(tokenizer))
    text = AutoModelForCausalLM.from_config(config).eval()
    processor = FineViTVLProcessor.from_vision_text_pretrained(vision_folder, tokenizer)
    vision = FineViTModel.from_pretrained(vision_folder)
    if word:
        with pytest.raises(ValueError, match=word):
            FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision, text, processor)
        return
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision, text, processor)
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([[5, 9]])).logits, text(torch.tensor([[5, 9]])).logits)


def test_generation_stops_at_the_chat_end_and_pads_with_the_pad_token(vision_folder, tmp_path):
    config = Qwen3Config(**SHAPE, head_dim=32, vocab_size=30, eos_token_id=1)
    save_language_model(tmp_path, config, word_tokenizer())
    processor = FineViTVLProcessor.from_vision_text_pretrained(vision_folder, tmp_path)
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision_folder, tmp_path)
    generation = model.generation_config
    assert generation.eos_token_id == [processor.tokenizer.convert_tokens_to_ids("<|im_end|>"), 1]
    assert generation.pad_token_id == processor.tokenizer.pad_token_id
    assert set(generation.suppress_tokens) == {
        processor.image_token_id,
        processor.vision_start_token_id,
        processor.vision_end_token_id,
    }


def test_an_embedding_with_room_is_not_cut(vision_folder, tokenizer, tmp_path):
    """Qwen3 has more embedding rows than tokens."""
    rows = len(tokenizer) + 38
    save_language_model(tmp_path, Qwen3Config(**SHAPE, head_dim=32, vocab_size=rows), tokenizer)
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision_folder, tmp_path)
    assert model.lm_head.weight.shape[0] == rows


def test_live_models_are_taken_over_and_need_a_processor(vision_folder, tokenizer):
    vision = FineViTModel.from_pretrained(vision_folder)
    text = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE, head_dim=32, vocab_size=len(tokenizer)))
    with pytest.raises(ValueError, match="pass processor="):
        FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision, text)
    processor = FineViTVLProcessor.from_vision_text_pretrained(FineViTImageProcessorPil(), tokenizer)
    model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(
        vision, text, processor, projector_hidden_size=48
    )
    assert model.model.vision_tower is vision
    assert model.model.language_model is text.model
    assert model.model.multi_modal_projector.linear_1.weight.shape == (48, 256)
    weight = model.model.multi_modal_projector.linear_2.weight
    assert 0.01 < weight.std() < 0.03


def test_the_parts_take_the_dtype_of_the_language_model(vision_folder, tokenizer, tmp_path):
    text = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE, head_dim=32, vocab_size=len(tokenizer)))
    text.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor = FineViTVLProcessor.from_vision_text_pretrained(vision_folder, tmp_path)
    for vision in (vision_folder, FineViTModel.from_pretrained(vision_folder)):
        model = FineViTVLForConditionalGeneration.from_vision_text_pretrained(vision, tmp_path, processor)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.config.dtype == torch.bfloat16
        assert model.model.vision_tower.rotary_emb.inv_freq.dtype == torch.float32


def test_the_saved_tokenizer_carries_the_chat_template(vision_folder, tmp_path):
    save_language_model(tmp_path / "text", Qwen3Config(**SHAPE, head_dim=32, vocab_size=30), word_tokenizer())
    FineViTVLProcessor.from_vision_text_pretrained(vision_folder, tmp_path / "text").save_pretrained(tmp_path / "vl")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "vl")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def converted_folder(tmp_path_factory):
    """A Qwen2.5-VL, saved, converted from its folder and saved as an encoder with its projector."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen = make_qwen2_5_vl()
    qwen.save_pretrained(folder / "qwen")
    from_qwen2_5_vl(folder / "qwen").save_pretrained(folder / "encoder")
    return qwen, folder / "encoder"


def test_a_converted_qwen2_5_vl_joins_another_language_model_with_its_projector(converted_folder, tmp_path):
    qwen, encoder = converted_folder
    config = Qwen3Config(**SHAPE, head_dim=32, vocab_size=30, eos_token_id=1)
    save_language_model(tmp_path, config, word_tokenizer())
    join = FineViTVLForConditionalGeneration.from_vision_text_pretrained
    model, new = join(encoder, tmp_path, projector=encoder), join(encoder, tmp_path)
    patches, doubled = still_patches()
    with torch.no_grad():
        expected = torch.cat(list(qwen.get_image_features(doubled, GRID).pooler_output))
        found = torch.cat(list(model.get_image_features(patches, GRID).pooler_output))
        assert relative_error(found, expected) < 1e-5
        assert relative_error(torch.cat(list(new.get_image_features(patches, GRID).pooler_output)), expected) > 0.1

    processor = FineViTVLProcessor.from_vision_text_pretrained(encoder, tmp_path)
    batch = encode(processor, [[user(noise_image(1), "a b")]])
    assert model.generate(**batch, max_new_tokens=2).shape[0] == 1


def test_a_projector_of_other_widths_or_none_is_refused(converted_folder, vision_folder, tmp_path):
    _, encoder = converted_folder
    config = Qwen3Config(**{**SHAPE, "hidden_size": 96}, head_dim=32, vocab_size=30, eos_token_id=1)
    save_language_model(tmp_path, config, word_tokenizer())
    join = FineViTVLForConditionalGeneration.from_vision_text_pretrained
    with pytest.raises(ValueError, match="does not fit between this encoder and language model"):
        join(encoder, tmp_path, projector=encoder)
    with pytest.raises(ValueError, match=r"holds no projector\.safetensors"):
        join(encoder, tmp_path, projector=vision_folder)
