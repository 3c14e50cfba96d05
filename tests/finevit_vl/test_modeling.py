"""FineViT-VL's forward: where the pictures go, what the loss covers, which weights get gradients."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger

from finevit_vl import FineViTVLConfig, FineViTVLForConditionalGeneration, FineViTVLModel, supervised_positions
from finevit_vl.modeling_finevit_vl import FineViTVLMultiModalProjector
from modeling_finevit import FineViTConfig
from tests.support.vl_models import small_config

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def labels(batch):
    """The last six tokens of every row."""
    return torch.where(
        torch.arange(batch["input_ids"].shape[1]) >= batch["input_ids"].shape[1] - 6, batch["input_ids"], -100
    )


class TestConfig:
    def test_full_is_finevit_full_with_the_dimensions_of_qwen3_1_7b(self):
        config = FineViTVLConfig.from_size("full")
        text = config.text_config
        assert config.vision_config.to_dict() == FineViTConfig.from_size("full").to_dict()
        assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.vocab_size) == (
            2048,
            28,
            6144,
            151_936,
        )
        assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (16, 8, 128)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        counts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.model.named_children()}
        assert counts["vision_tower"] == 860_249_088
        assert counts["language_model"] == 1_720_574_976  # Qwen3-1.7B, embedding counted once
        assert counts["multi_modal_projector"] == 6144 * 6144 + 6144 + 6144 * 2048 + 2048

    def test_nano_takes_vocabulary_and_image_tokens_from_the_tokenizer(self, tokenizer):
        config = FineViTVLConfig.from_size("nano", tokenizer=tokenizer)
        assert config.text_config.vocab_size == len(tokenizer)
        assert tokenizer.convert_ids_to_tokens(
            [config.image_token_id, config.vision_start_token_id, config.vision_end_token_id]
        ) == ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"]
        assert config.tie_word_embeddings

    def test_an_unknown_size_names_the_known_ones(self):
        with pytest.raises(ValueError, match="nano, tiny, small, base, large, full"):
            FineViTVLConfig.from_size("huge")

    def test_round_trip_keeps_every_field(self, tokenizer, tmp_path):
        config = small_config(tokenizer, projector_hidden_size=96)
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert isinstance(loaded, FineViTVLConfig)
        expected = {
            **config.to_dict(),
            **{key: loaded.to_dict()[key] for key in ("_name_or_path", "transformers_version")},
        }
        assert loaded.to_dict() == expected
        assert FineViTConfig.from_pretrained(tmp_path).hidden_size == config.vision_config.hidden_size

    def test_holds_any_language_model(self, tokenizer):
        for model_type in ("qwen2", "llama"):
            text = {
                "model_type": model_type,
                "hidden_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": 96,
                "vocab_size": len(tokenizer),
            }
            config = FineViTVLConfig(
                vision_config={"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
                text_config=text,
                image_token_id=7,
            )
            model = FineViTVLForConditionalGeneration(config)
            assert model.config.text_config.model_type == model_type
            assert type(model.model.language_model).__module__.endswith(f"modeling_{model_type}")
            output = model(
                input_ids=torch.tensor([[1, 7, 2]]),
                pixel_values=torch.randn(4, 588),
                image_grid_thw=torch.tensor([[1, 2, 2]]),
            )
            assert output.logits.shape == (1, 3, len(tokenizer))


class TestForward:
    def test_equals_the_language_model_on_hand_made_embeddings(self, model, batch):
        features = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        assert [len(f) for f in features] == (batch["image_grid_thw"].prod(-1) // 4).tolist()
        embeds = model.get_input_embeddings()(batch["input_ids"]).clone()
        embeds[batch["input_ids"] == model.config.image_token_id] = torch.cat(features)
        by_hand = model.model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
        output = model(**batch)
        torch.testing.assert_close(output.logits, model.lm_head(by_hand.last_hidden_state))
        assert torch.equal(output.image_pooler_output, torch.cat(features))

    def test_features_are_the_projected_2x2_blocks_of_the_tower(self, model, batch):
        hidden = model.model.vision_tower(batch["pixel_values"], batch["image_grid_thw"]).last_hidden_state
        projector = model.model.multi_modal_projector
        blocks = torch.cat([hidden[i::4] for i in range(4)], dim=-1)
        by_hand = F.gelu(blocks @ projector.linear_1.weight.T + projector.linear_1.bias)
        by_hand = by_hand @ projector.linear_2.weight.T + projector.linear_2.bias
        features = torch.cat(model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output)
        torch.testing.assert_close(features, by_hand, atol=1e-5, rtol=1e-4)

    def test_the_projector_holds_the_merger_of_qwen2_5_vl(self, tokenizer):
        vision = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        projector = FineViTVLMultiModalProjector(small_config(tokenizer, vision=vision))
        merger = Qwen2_5_VLPatchMerger(dim=128, context_dim=64, spatial_merge_size=2)
        projector.linear_1.load_state_dict(merger.mlp[0].state_dict())
        projector.linear_2.load_state_dict(merger.mlp[2].state_dict())
        hidden = torch.randn(12, 64)
        torch.testing.assert_close(projector(merger.ln_q(hidden)), merger(hidden))
        assert not torch.allclose(projector(merger.ln_q(hidden.flip(0))), merger(hidden))

    def test_embeddings_can_be_given_instead_of_ids(self, model, batch):
        embeds = model.get_input_embeddings()(batch["input_ids"])
        inputs = {key: value for key, value in batch.items() if key != "input_ids"}
        torch.testing.assert_close(model(inputs_embeds=embeds, **inputs).logits, model(**batch).logits)

    def test_features_encoded_before_replace_the_pixels(self, model, batch):
        outputs = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        text = {key: batch[key] for key in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(**text, mm_encoder_outputs={"image": outputs}).logits, model(**batch).logits)
        with pytest.raises(ValueError, match="not both"):
            model(**batch, mm_encoder_outputs={"image": outputs})

    def test_hidden_states_and_attentions_of_the_language_model_can_be_asked_for(self, model, batch):
        model.set_attn_implementation("eager")
        output = model(**batch, output_hidden_states=True, output_attentions=True)
        model.set_attn_implementation("sdpa")
        assert len(output.hidden_states) == 3
        assert output.attentions[0].shape[-2:] == (batch["input_ids"].shape[1],) * 2
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(output.logits[real], model(**batch).logits[real], atol=1e-4, rtol=1e-4)

    def test_too_many_or_too_few_pictures_are_named(self, model, batch):
        inputs = {**batch, "pixel_values": batch["pixel_values"][:24], "image_grid_thw": batch["image_grid_thw"][:1]}
        with pytest.raises((ValueError, RuntimeError), match="Image features and image tokens do not match"):
            model(**inputs)

    def test_neither_ids_nor_embeddings_is_refused(self, model):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(attention_mask=torch.ones(1, 3))


class TestLoss:
    def test_is_the_mean_cross_entropy_of_the_next_token(self, model, batch, labels):
        output = model(**batch, labels=labels)
        expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        torch.testing.assert_close(output.loss, expected)
        unshifted = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        assert not torch.allclose(output.loss, unshifted)

    def test_supervised_positions_give_the_same_loss_and_gradients_from_fewer_logits(self, model, batch, labels):
        def loss_and_gradients(**kwargs):
            model.zero_grad()
            output = model(**batch, labels=labels, **kwargs)
            output.loss.backward()
            return output, {name: p.grad.clone() for name, p in model.named_parameters()}

        full, expected = loss_and_gradients()
        kept, gradients = loss_and_gradients(logits_to_keep=supervised_positions(labels))
        assert kept.logits.shape[0] == (labels[:, 1:] != -100).sum() < full.logits.shape[:2].numel()
        torch.testing.assert_close(kept.loss, full.loss)
        torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-4)

    @pytest.mark.parametrize("keep", [3, torch.tensor([2, 5]), torch.tensor([[2, 5], [1, 1], [0, 7]])])
    def test_logits_to_keep_slices_logits(self, model, batch, keep):
        logits = model(**batch).logits
        index = slice(-3, None) if isinstance(keep, int) else keep
        expected = (
            logits[:, index]
            if not isinstance(index, torch.Tensor) or index.ndim == 1
            else torch.stack([row[positions] for row, positions in zip(logits, index, strict=True)])
        )
        torch.testing.assert_close(model(**batch, logits_to_keep=keep).logits, expected)

    def test_no_cache_is_built_for_a_loss(self, model, batch, labels):
        assert model(**batch, labels=labels).past_key_values is None
        assert model(**batch).past_key_values is not None


class TestGradients:
    def test_reach_every_weight(self, model, batch):
        model.train()(**batch, labels=batch["input_ids"]).loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

    def test_a_batch_of_texts_gives_the_vision_weights_zero_and_not_none(self, model, processor):
        texts = processor(text=["only words"], return_tensors="pt")
        model.train()(**texts, labels=texts["input_ids"]).loss.backward()
        vision = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
        assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in vision)
        with torch.no_grad():
            torch.testing.assert_close(model(**texts).logits, model.eval()(**texts).logits)

    def test_a_frozen_tower_builds_no_graph(self, model, batch):
        model.model.vision_tower.requires_grad_(False)
        model.enable_input_require_grads()
        outputs = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        assert outputs.last_hidden_state.grad_fn is None
        assert outputs.pooler_output[0].grad_fn is not None
        model.disable_input_require_grads()
        model.model.vision_tower.requires_grad_(True)
        assert model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).last_hidden_state.requires_grad

    def test_reach_the_pixels_even_through_a_frozen_tower(self, model, batch):
        model.model.vision_tower.requires_grad_(False)
        pixels = batch["pixel_values"].clone().requires_grad_()
        model(**{**batch, "pixel_values": pixels}).logits.sum().backward()
        assert pixels.grad.abs().sum() > 0

    def test_are_the_same_under_activation_checkpointing(self, model, batch):
        def gradients():
            model.zero_grad()
            model.train()(**batch, labels=batch["input_ids"]).loss.backward()
            return [p.grad.clone() for p in model.parameters()]

        expected = gradients()
        # The old name of these two goes away in transformers 6; 5.17 knows no other.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        checkpointed = gradients()
        getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
        torch.testing.assert_close(checkpointed, expected)


class TestSaveAndLoad:
    def test_round_trip_is_bit_identical(self, model, batch, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert isinstance(loaded, FineViTVLForConditionalGeneration)
        assert loaded.generation_config.suppress_tokens == model.generation_config.suppress_tokens
        for (name, expected), (_, weight) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
            assert torch.equal(weight, expected), name
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)

    def test_the_base_model_loads_from_the_same_folder(self, model, batch, tmp_path):
        model.save_pretrained(tmp_path)
        base = AutoModel.from_pretrained(tmp_path)
        assert isinstance(base, FineViTVLModel)
        assert torch.equal(base(**batch).last_hidden_state, model.model(**batch).last_hidden_state)

    def test_a_tied_head_is_stored_once_and_tied_again(self, tokenizer, tmp_path):
        model = FineViTVLForConditionalGeneration(FineViTVLConfig.from_size("nano", tokenizer=tokenizer))
        model.save_pretrained(tmp_path)
        loaded = FineViTVLForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
        assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())

    def test_bfloat16_keeps_rotary_frequencies_exact(self, model, batch, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = FineViTVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
        rotary = loaded.model.vision_tower.rotary_emb
        assert rotary.inv_freq.dtype == torch.float32
        assert torch.equal(rotary.inv_freq, model.model.vision_tower.rotary_emb.inv_freq)
        exact, rounded = model(**batch).logits, loaded(**batch).logits.float()
        assert 0 < (exact - rounded).norm() / exact.norm() < 0.05

    def test_a_device_map_spreads_the_modules(self, model, batch, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = FineViTVLForConditionalGeneration.from_pretrained(
            tmp_path,
            device_map={
                "model.vision_tower": "disk",
                "model.multi_modal_projector": "cpu",
                "model.language_model": "cpu",
                "lm_head": "cpu",
            },
            offload_folder=tmp_path / "offload",
        )
        assert loaded.hf_device_map["model.vision_tower"] == "disk"
        assert next(loaded.model.vision_tower.parameters()).device.type == "meta"
        with torch.no_grad():
            torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
