"""Models from folders: a converted tower with its projector, new tokens under LoRA, and what is not there."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from finevit_training.stages.sft.arguments import ModelArguments
from finevit_training.stages.sft.model import build_lora, build_model, build_processor
from finevit_vl import build_qwen_tokenizer
from modeling_finevit import FineViTConfig, FineViTImageProcessorPil, FineViTModel


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    config = FineViTConfig.from_size("nano", num_hidden_layers=1)
    FineViTModel(config).save_pretrained(folder)
    FineViTImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A language model whose tokenizer lacks one token that a FineViT-VL writes."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = build_qwen_tokenizer(300)
    backend = tokenizer.backend_tokenizer.to_str().replace("<|box_start|>", "<|something_else|>")
    tokenizer = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(backend))
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def projector_of(width, out):
    linear_1, linear_2 = torch.nn.Linear(4 * width, 4 * width), torch.nn.Linear(4 * width, out)
    return {f"linear_{i}.{k}": v.detach() for i, m in ((1, linear_1), (2, linear_2)) for k, v in m.named_parameters()}


def test_a_converted_projector_is_loaded_and_one_of_other_widths_is_refused(vision, llm, tmp_path):
    args = ModelArguments(vision=str(vision), llm=str(llm), projector=str(tmp_path))
    processor = build_processor(args)
    with pytest.raises(ValueError, match=r"holds no projector\.safetensors"):
        build_model(args, processor)
    state = projector_of(128, 32)
    save_file(state, tmp_path / "projector.safetensors")
    loaded = build_model(args, processor).model.multi_modal_projector.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    save_file(projector_of(128, 48), tmp_path / "projector.safetensors")
    with pytest.raises(ValueError, match="does not fit between"):
        build_model(args, processor)


def test_lora_trains_the_rows_of_the_tokens_that_the_language_model_lacked(vision, llm):
    args = ModelArguments(vision=str(vision), llm=str(llm), lora_rank=2)
    processor = build_processor(args)
    lora = build_lora(args, build_model(args, processor), processor)
    new = processor.tokenizer.convert_tokens_to_ids("<|box_start|>")
    assert lora.trainable_token_indices == {"embed_tokens": [new], "lm_head": [new]}


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused():
    args = ModelArguments(size="nano", vocab_size=300, text_config={"vocab_size": 100})
    with pytest.raises(ValueError, match="vocab_size in text_config is 100, and the tokenizer has 326 tokens"):
        build_model(args, build_processor(args))


def test_a_tower_without_image_processor_says_how_to_write_one(llm, tmp_path):
    FineViTModel(FineViTConfig.from_size("nano", num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"FineViTImageProcessor\(\)\.save_pretrained"):
        build_processor(ModelArguments(vision=str(tmp_path), llm=str(llm)))


def test_the_folder_of_a_former_stage_is_no_model_of_this_one_but_its_vision(vision):
    with pytest.raises(ValueError, match=r"^`model` is .*, a finevit; expected a finevit_vl; give it as `vision`$"):
        build_processor(ModelArguments(model=str(vision)))
