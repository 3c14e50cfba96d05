"""PEFT, quantisation, pipelines and TRL find what they look for."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForMultimodalLM, BitsAndBytesConfig, pipeline
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from finevit_vl import FineViTVLConfig, FineViTVLForConditionalGeneration
from finevit_vl.quantization import leave_vision_unquantized
from tests.support.vl_models import encode, noise_image, small_config, user

VISION = ("model.vision_tower", "model.multi_modal_projector")


class TestPeft:
    LANGUAGE_MODEL_ONLY = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    ON_BOTH = r".*(language_model|vision_tower).*\.(q|k|v|o|gate|up|down)_proj"

    def lora(self, tokenizer, target):
        peft = pytest.importorskip("peft", reason="peft is part of the train extra")
        torch.manual_seed(0)
        model = FineViTVLForConditionalGeneration(small_config(tokenizer))
        return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False))

    @pytest.mark.parametrize("target", [LANGUAGE_MODEL_ONLY, ON_BOTH])
    def test_lora_trains_where_it_is_put(self, tokenizer, batch, target):
        model = self.lora(tokenizer, target)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert any("language_model" in name for name in trained)
        assert any("vision_tower" in name for name in trained) == (target == self.ON_BOTH)
        model.train()(**batch, labels=batch["input_ids"]).loss.backward()
        gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert gradients == trained
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.requires_grad)

    def test_lora_on_the_language_model_leaves_the_tower_without_a_graph_under_checkpointing(self, tokenizer, batch):
        model = self.lora(tokenizer, self.LANGUAGE_MODEL_ONLY).train()
        model.enable_input_require_grads()
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        tower = model.base_model.model.model.vision_tower
        outputs = []
        tower.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
        model(**batch, labels=batch["input_ids"]).loss.backward()
        assert [output.requires_grad for output in outputs] == [False]

    def test_an_adapter_survives_saving_and_changes_the_answer(self, tokenizer, batch, tmp_path):
        peft = pytest.importorskip("peft", reason="peft is part of the train extra")
        model = self.lora(tokenizer, self.ON_BOTH).eval()
        model.save_pretrained(tmp_path)
        torch.manual_seed(0)
        base = FineViTVLForConditionalGeneration(small_config(tokenizer)).eval()
        with torch.no_grad():
            before = base(**batch).logits.clone()
            loaded = peft.PeftModel.from_pretrained(base, str(tmp_path))
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)
            assert not torch.allclose(loaded(**batch).logits, before)


@pytest.mark.model
class TestQuantization:
    """bitsandbytes itself is not needed to see which modules transformers would hand to it."""

    def converted(self, model, skip_modules) -> set[str]:
        skipped = HfQuantizer.get_modules_to_not_convert(model, skip_modules, model._keep_in_fp32_modules)
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        return {name for name in linear if should_convert_module(name, skipped)}

    @pytest.fixture(scope="class")
    def meta_model(self):
        with torch.device("meta"):
            return FineViTVLForConditionalGeneration(FineViTVLConfig.from_size("nano"))

    @pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
    def test_the_language_model_is_converted_and_the_vision_is_not(self, meta_model, bits):
        config = leave_vision_unquantized(BitsAndBytesConfig(**{bits: True}))
        converted = self.converted(meta_model, config.llm_int8_skip_modules)
        assert len(converted) == 7 * meta_model.config.text_config.num_hidden_layers
        assert all(name.startswith("model.language_model.layers.") for name in converted)
        base = self.converted(meta_model.model, config.llm_int8_skip_modules)
        assert base == {name.removeprefix("model.") for name in converted}

    def test_transformers_alone_would_convert_the_vision(self, meta_model):
        """The control: without the default set here, the tower and the projector would be quantised."""
        converted = self.converted(meta_model, None)
        assert all(any(name.startswith(part) for name in converted) for part in VISION)

    def test_from_pretrained_hands_the_default_to_the_quantizer(self, model, tmp_path, monkeypatch):
        model.save_pretrained(tmp_path)
        seen = []

        def stop_before_loading(cls, *args, **kwargs):
            seen.append(kwargs["quantization_config"])
            raise InterruptedError

        monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(stop_before_loading))
        given = BitsAndBytesConfig(load_in_4bit=True)
        for config in (given, {"load_in_4bit": True, "quant_method": "bitsandbytes"}):
            with pytest.raises(InterruptedError):
                transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, quantization_config=config)
        assert set(VISION) <= set(seen[0].llm_int8_skip_modules)
        assert set(VISION) <= set(seen[1]["llm_int8_skip_modules"])
        assert given.llm_int8_skip_modules is None, "the caller's object is not changed"

    def test_a_given_list_is_respected(self):
        given = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
        assert leave_vision_unquantized(given).llm_int8_skip_modules == ["lm_head"]
        given = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
        assert leave_vision_unquantized(given) == given


@pytest.mark.model
class TestPipelines:
    def test_image_text_to_text(self, model, processor, tmp_path):
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        pipe: Any = pipeline("image-text-to-text", model=str(tmp_path), processor=processor)
        message = user(noise_image(7), "What is it?")
        options = {"max_new_tokens": 5, "do_sample": False}
        answer = pipe(text=[message], generate_kwargs=options, return_full_text=False)[0]["generated_text"]
        inputs = encode(processor, [[message]])
        ids = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        assert answer == processor.post_process_image_text_to_text(ids)[0]
        other = pipe(text=[user(noise_image(8), "What is it?")], generate_kwargs=options, return_full_text=False)
        assert other[0]["generated_text"] != answer

    def test_image_feature_extraction_with_the_tower_of_a_saved_model(self, model, processor):
        pipe: Any = pipeline(
            "image-feature-extraction", model=model.model.vision_tower, image_processor=processor.image_processor
        )
        image = noise_image(7, 84, 112)
        inputs = processor.image_processor(images=image, return_tensors="pt")
        with torch.no_grad():
            expected = model.model.vision_tower(**inputs)
        assert np.asarray(pipe(image)).shape == (48, 128)
        np.testing.assert_allclose(np.asarray(pipe(image)), expected.last_hidden_state, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(pipe(image, pool=True)), expected.pooler_output, rtol=1e-6)


class TestLookedUpByName:
    def test_trl_creates_the_model_from_a_path(self, model, tmp_path):
        trl_utils = pytest.importorskip("trl.trainer.utils", reason="trl is part of the train extra")
        model.save_pretrained(tmp_path)
        created = trl_utils.create_model_from_path(str(tmp_path))
        assert isinstance(created, FineViTVLForConditionalGeneration)
        for name, weight in created.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name]), name

    def test_serving_finds_class_and_modality_by_name(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
        assert getattr(transformers, architecture) is FineViTVLForConditionalGeneration
        names = transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
        assert architecture in names.values()
        assert isinstance(AutoModelForMultimodalLM.from_pretrained(tmp_path), FineViTVLForConditionalGeneration)
