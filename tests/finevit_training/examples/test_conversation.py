"""The fast collator writes what the chat template would, and loss falls only on what the assistant says."""

import io
from functools import partial

import pytest
import torch
from PIL import Image

from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.batch import model_inputs
from finevit_training.data.order import SampleKey
from finevit_training.data.packing import IGNORE_INDEX
from finevit_training.data.source import Sample
from finevit_training.examples.conversation import SFTCollator

MIXTURE = dict.fromkeys(DENSE_TASKS, 1.0)
PICTURE_KEYS = ("pixel_values", "image_grid_thw")


@pytest.fixture
def collator(processor):
    return SFTCollator(processor, mixture=MIXTURE, seed=3)


def template_encoding(processor, sample, turns):
    messages = []
    for number, turn in enumerate(turns):
        picture = [{"type": "image", "image": Image.open(io.BytesIO(sample.record["image"]["bytes"]))}]
        text = [{"type": "text", "text": turn.prompt}]
        messages.append({"role": "user", "content": (picture if number == 0 else []) + text})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )


def test_ids_masks_and_pixels_are_those_of_the_chat_template(processor, collator, samples):
    batch = collator(samples)
    assert batch["ids"] == [sample.record["id"] for sample in samples]
    pixels = batch["pixel_values"].split(batch["image_grid_thw"].prod(-1).tolist())
    for row, sample in enumerate(samples):
        expected = template_encoding(processor, sample, collator.turns(sample))
        length = expected["input_ids"].shape[1]
        assert batch["lengths"][row] == length == batch["attention_mask"][row].sum()
        torch.testing.assert_close(batch["input_ids"][row, :length], expected["input_ids"][0], rtol=0, atol=0)
        supervised = (batch["labels"][row, :length] != IGNORE_INDEX).long()
        mask = torch.as_tensor(expected["assistant_masks"]).view(-1).long()
        torch.testing.assert_close(supervised, mask, rtol=0, atol=0)
        torch.testing.assert_close(pixels[row], expected["pixel_values"])


def test_labels_are_the_answers_and_image_tokens_carry_no_loss(processor, collator, samples):
    batch = collator(samples)
    image = batch["input_ids"] == processor.image_token_id
    assert image.any()
    assert (batch["labels"][image] == IGNORE_INDEX).all()
    said = batch["labels"][0][batch["labels"][0] != IGNORE_INDEX]
    answers = [turn.answer + "<|im_end|>" for turn in collator.turns(samples[0])]
    assert processor.tokenizer.decode(said) == "".join(answers)


def test_turns_depend_on_seed_epoch_and_record_and_on_nothing_else(processor, samples):
    first, again = (SFTCollator(processor, mixture=MIXTURE, seed=1) for _ in range(2))
    assert [first.turns(s) for s in samples] == [again.turns(s) for s in reversed(samples)][::-1]
    other_seed = SFTCollator(processor, mixture=MIXTURE, seed=2)
    assert [first.turns(s) for s in samples] != [other_seed.turns(s) for s in samples]
    next_epoch = [Sample(s.key._replace(epoch=1), s.record) for s in samples]
    assert [first.turns(s) for s in samples] != [first.turns(s) for s in next_epoch]


def sum_of_losses(model, batch):
    """Summed cross entropy of every supervised token, from the model's own full logits."""
    inputs = model_inputs(batch, model.config.get_text_config()._attn_implementation, torch.float32)
    labels = inputs.pop("labels")
    with torch.no_grad():
        logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    ).item()


@pytest.mark.parametrize("max_length", [None, 700])
def test_packed_rows_have_the_loss_of_padded_rows(model, processor, samples, max_length):
    padded = SFTCollator(processor, mixture=MIXTURE, max_length=max_length)(samples)
    packed = SFTCollator(processor, mixture=MIXTURE, max_length=max_length, packing=True)(samples)
    assert len(packed["input_ids"]) < len(padded["input_ids"])
    assert sum_of_losses(model, packed) == pytest.approx(sum_of_losses(model, padded), rel=1e-5)
    bleeding = {**packed, "position_ids": torch.arange(packed["input_ids"].shape[1]).expand_as(packed["input_ids"])}
    assert sum_of_losses(model, bleeding) != pytest.approx(sum_of_losses(model, padded), rel=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_isolated_turns_have_the_loss_of_separate_one_turn_samples(model, processor, samples, attention, request):
    request.addfinalizer(partial(model.set_attn_implementation, model.config._attn_implementation))
    model.set_attn_implementation(attention)
    isolated = SFTCollator(processor, mixture=MIXTURE, isolate_turns=True)
    shared = SFTCollator(processor, mixture=MIXTURE)
    separate = 0.0
    for sample in samples[:3]:
        for turn in shared.turns(sample):
            alone = SFTCollator(processor, mixture=MIXTURE)
            alone.turns = lambda sample, skipped, turn=turn: [turn]
            separate += sum_of_losses(model, alone([sample]))
    assert sum_of_losses(model, isolated(samples[:3])) == pytest.approx(separate, rel=1e-5)
    assert sum_of_losses(model, shared(samples[:3])) != pytest.approx(separate, rel=1e-4)


def test_turns_beyond_max_length_are_left_out_and_a_picture_too_long_for_one_is_reported(processor, samples):
    batch = SFTCollator(processor, mixture=MIXTURE, max_length=200)(samples)
    assert batch["lengths"].max() <= 200
    assert {reason.split(":")[0] for _, reason in batch["skipped"]} <= {"its first turn does not fit"}
    assert len(batch["ids"]) == len(samples)
    with pytest.raises(ValueError, match="does not fit"):
        SFTCollator(processor, mixture=MIXTURE, max_length=20)(samples)


def test_packing_and_isolated_turns_exclude_each_other(processor):
    with pytest.raises(ValueError, match="exclude"):
        SFTCollator(processor, packing=True, isolate_turns=True)


def test_curriculum_follows_the_fraction_in_the_key(processor, samples):
    stages = [{"until": 0.5, "mixture": {"qa": 0, "global_caption": 1}}, {"until": 1.0, "mixture": {"qa": 100}}]
    collator = SFTCollator(processor, mixture=stages)
    document = next(s for s in samples if s.record["source"] == "finevit-docs")
    late = Sample(SampleKey(0, 0, 0.9), document.record)
    assert {turn.task for turn in collator.turns(document)} == {"global_caption"}
    assert {turn.task for turn in collator.turns(late)} == {"doc"}
