"""Conversations are those of the chat template, loss falls only on what the assistant says, packed or not."""

import io
from functools import partial

import pytest
import torch
from PIL import Image

from finecap.sources.rows import Row
from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.batch import model_inputs
from finevit_training.data.order import RowKey, WindowKey
from finevit_training.data.packing import IGNORE_INDEX
from finevit_training.data.reader import Planned
from finevit_training.examples.conversation import Conversations
from modeling_finevit import FineViTImageProcessorPil
from tests.support.training_data import row_of

MIXTURE = dict.fromkeys(DENSE_TASKS, 1.0)
KEY = RowKey(0, 0, 0, 0)


@pytest.fixture
def conversations(processor):
    return Conversations(processor, 2048, mixture=MIXTURE, seed=3)


def picture(number, size=(56, 84)):
    content = io.BytesIO()
    Image.new("RGB", size, (number * 40 % 256, 90, 30)).save(content, "PNG")
    return content.getvalue()


def template_encoding(processor, messages, pictures):
    images = iter(Image.open(io.BytesIO(data)) for data in pictures)

    def shown(piece):
        return {**piece, "image": next(images)} if piece["type"] == "image" else piece

    messages = [{**message, "content": [shown(piece) for piece in message["content"]]} for message in messages]
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )


@pytest.mark.parametrize("budget", [(112**2, 112**2), (50_000, 60_000), (256**2, 256**2), (56**2, 1008**2)])
def test_a_large_jpeg_has_the_patches_it_was_planned_with(processor, budget):
    """A size within a narrow budget is not always one that the processor leaves as it is."""
    image_processor = FineViTImageProcessorPil(size=dict(zip(("shortest_edge", "longest_edge"), budget, strict=True)))
    made = Conversations(type(processor)(image_processor, processor.tokenizer), 4096)
    for size in ((3632, 1957), (2702, 518), (2716, 422), (819, 3285), (1500, 1500)):
        content = io.BytesIO()
        Image.new("RGB", size, "red").save(content, "JPEG")
        draft = made.draft(Row("large", [size], messages=[ask("What?", 1), say("Red.")]), KEY, 0.0)
        batch = made.collate([[made.example(draft, [content.getvalue()])]])
        assert len(batch["pixel_values"]) == draft.patches
        assert (batch["input_ids"] == processor.image_token_id).sum() * 4 == draft.patches


def ask(text, pictures=0):
    return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


def say(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


READY = {
    "one picture": ([ask("What is it?", 1), say("A bar."), ask("Which colour?"), say("Red.")], 1),
    "two pictures": ([ask("Compare.", 2), say("Alike.")], 2),
    "a picture later": ([ask("Hello."), say("Hi."), ask("And this?", 1), say("A cat.")], 1),
    "no picture": ([ask("Two and two?"), say("Four.")], 0),
    "a system message": (
        [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, ask("Why?", 1), say("So.")],
        1,
    ),
}


@pytest.mark.parametrize("name", READY)
def test_a_ready_conversation_is_the_chat_template_s(processor, conversations, name):
    messages, count = READY[name]
    data = [picture(number, (56 + 28 * number, 84)) for number in range(count)]
    row = Row("ready", [(56 + 28 * number, 84) for number in range(count)], messages=messages)
    draft = conversations.draft(row, KEY, 0.0)
    batch = conversations.collate([[conversations.example(draft, data)]])
    expected = template_encoding(processor, messages, data)
    length = expected["input_ids"].shape[1]
    assert len(draft) == length
    assert batch["input_ids"][0, :length].tolist() == expected["input_ids"][0].tolist()
    mask = torch.as_tensor(expected["assistant_masks"]).view(-1).bool()
    assert (batch["labels"][0, :length] != IGNORE_INDEX).tolist() == mask.tolist()
    if count:
        pixel_values = model_inputs(batch, processor.image_processor)["pixel_values"]
        torch.testing.assert_close(pixel_values, expected["pixel_values"])
    assert draft.patches == len(batch["pixel_values"])


def test_the_words_of_a_ready_conversation_hold_no_special_tokens(conversations):
    row = Row("hostile", [], messages=[ask("Why?<|im_end|>"), say("So.")])
    with pytest.raises(UnusableRecord, match="special token stands in the data"):
        conversations.draft(row, KEY, 0.0)
    parts = [{"type": "text", "text": "<|image_"}, {"type": "text", "text": "pad|>"}]
    row = Row(
        "in two pieces", [(56, 84)], messages=[{**ask("", 1), "content": [{"type": "image"}, *parts]}, say("So.")]
    )
    with pytest.raises(UnusableRecord, match="special token stands in the data"):
        conversations.draft(row, KEY, 0.0)


def test_a_picture_that_nobody_answers_after_makes_a_conversation_unusable(conversations):
    row = Row("open", [(56, 84)], messages=[ask("Hello."), say("Hi."), ask("And this?", 1)])
    with pytest.raises(UnusableRecord, match="nobody answers after it"):
        conversations.draft(row, KEY, 0.0)
    answered = conversations.draft(Row("words", [], messages=[ask("Hello."), say("Hi."), ask("And?")]), KEY, 0.0)
    only = conversations.draft(Row("words", [], messages=[ask("Hello."), say("Hi.")]), KEY, 0.0)
    assert answered.input_ids.tolist() == only.input_ids.tolist()


def test_a_conversation_that_is_too_long_loses_its_last_turns_and_never_part_of_a_picture(processor):
    messages = [ask("One?", 1), say("a " * 20), ask("Two?"), say("b " * 20), ask("Three?"), say("c " * 20)]
    row = Row("long", [(84, 84)], messages=messages)
    whole = len(Conversations(processor, 2048).draft(row, KEY, 0.0))
    cut = Conversations(processor, whole - 1).draft(row, KEY, 0.0)
    assert len(cut) == len(
        Conversations(processor, 2048).draft(Row("two", [(84, 84)], messages=messages[:4]), KEY, 0.0)
    )
    with pytest.raises(UnusableRecord, match=r"first turns do not fit.*max_length 30"):
        Conversations(processor, 30).draft(row, KEY, 0.0)
    late = Row("late", [(84, 84)], messages=[ask("Hi."), say("Hi."), ask("And?", 1), say("a " * 50)])
    with pytest.raises(UnusableRecord, match="do not fit"):
        Conversations(processor, 60).draft(late, KEY, 0.0)


def test_turns_depend_on_seed_epoch_and_record_and_on_nothing_else(processor, records):
    rows = [row_of(record) for record in records[:8]]

    def turns(seed=1, epoch=0, part=0, order=1):
        made = Conversations(processor, 2048, mixture=MIXTURE, seed=seed)
        return [made.turns(row, RowKey(epoch, part, 0, 0), 0.0) for row in rows[::order]][::order]

    assert turns() == turns(order=-1) == turns(part=7)
    assert turns() != turns(seed=2)
    assert turns() != turns(epoch=1)


def losses(model, batch):
    """Summed cross entropy of every supervised token, from the model's own full logits, and its gradient."""
    inputs = model_inputs(batch, FineViTImageProcessorPil())
    labels = inputs.pop("labels")
    model.zero_grad()
    logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def drafts_of(reader, count=4):
    found = reader.drafts(WindowKey(0, 0), 0.0)
    return list(zip(found.keys, found.drafts, strict=True))[:count]


def batch_of(reader, packs):
    batch, skipped = reader.batch([[Planned(key, len(draft), 0.0, draft) for key, draft in pack] for pack in packs])
    assert not skipped
    return batch


def worst_difference(gradients, expected):
    """Largest difference of a gradient, in units of the largest entry of its parameter."""
    pairs = zip(gradients, expected, strict=True)
    return max(((one - other).abs().max() / (other.abs().max() + 1e-6)).item() for one, other in pairs)


def unpacked(model, batches):
    """Loss and gradient, added up over batches."""
    total, gradients = 0.0, None
    for batch in batches:
        loss, grads = losses(model, batch)
        total += loss
        gradients = grads if gradients is None else [a + b for a, b in zip(gradients, grads, strict=True)]
    return total, gradients


@pytest.mark.model
@pytest.mark.parametrize("isolate_turns", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_samples_have_the_loss_and_gradient_of_each_alone(model, reader_for, isolate_turns, attention, request):
    request.addfinalizer(partial(model.set_attn_implementation, model.config._attn_implementation))
    model.set_attn_implementation(attention)
    reader = reader_for(mixture=MIXTURE, isolate_turns=isolate_turns, max_turns=3, max_length=1024)
    drafts = drafts_of(reader)
    packed = batch_of(reader, [drafts[:2], drafts[2:]])
    loss, gradients = losses(model, packed)
    alone, expected = unpacked(model, [batch_of(reader, [[one]]) for one in drafts])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert worst_difference(gradients, expected) < 1e-4
    mixed = {**packed, "segments": [[0, 1024, 0, 0], [1024, 1024, 0, 0]]}
    assert worst_difference(losses(model, mixed)[1], expected) > 1e-2, "samples that see each other"


@pytest.mark.model
def test_isolated_turns_have_the_loss_of_separate_one_turn_samples(model, processor, records):
    rows = [row_of(record) for record in records[:3]]
    isolated = Conversations(processor, 1024, mixture=MIXTURE, isolate_turns=True)

    def batch(made, row):
        data = [next(r["image"]["bytes"] for r in records if r["id"] == row.id)]
        return made.collate([[made.example(made.draft(row, KEY, 0.0), data)]])

    for row in rows:
        separate = 0.0
        for turn in isolated.turns(row, KEY, 0.0):
            alone = Conversations(processor, 1024, mixture=MIXTURE)
            alone.turns = lambda *_, turn=turn: [turn]
            separate += losses(model, batch(alone, row))[0]
        assert losses(model, batch(isolated, row))[0] == pytest.approx(separate, rel=1e-5)
        shared = Conversations(processor, 1024, mixture=MIXTURE)
        if len(isolated.turns(row, KEY, 0.0)) > 2:
            assert losses(model, batch(shared, row))[0] != pytest.approx(separate, rel=1e-4)


@pytest.mark.parametrize("isolate_turns", [False, True])
def test_turns_beyond_max_length_are_left_out(processor, records, isolate_turns):
    row = next(row_of(record) for record in records if record["source"] == "finevit-docs")
    whole = Conversations(processor, 2048, mixture=MIXTURE, isolate_turns=isolate_turns)
    length = len(whole.draft(row, KEY, 0.0))
    shorter = Conversations(processor, length - 1, mixture=MIXTURE, isolate_turns=isolate_turns)
    assert len(shorter.draft(row, KEY, 0.0)) < length
    with pytest.raises(UnusableRecord, match="first turn"):
        Conversations(processor, 20, mixture=MIXTURE, isolate_turns=isolate_turns).draft(row, KEY, 0.0)


def test_curriculum_follows_the_fraction(processor, records):
    stages = [{"until": 0.5, "mixture": {"qa": 0, "global_caption": 1}}, {"until": 1.0, "mixture": {"qa": 100}}]
    made = Conversations(processor, 2048, mixture=stages)
    document = next(row_of(record) for record in records if record["source"] == "finevit-docs")
    assert {turn.task for turn in made.turns(document, KEY, 0.0)} == {"global_caption"}
    assert {turn.task for turn in made.turns(document, KEY, 0.9)} == {"doc"}


def spoken_of(draft, conversations):
    kept = draft.labels[draft.labels != IGNORE_INDEX]
    return conversations.processor.tokenizer.decode(kept.tolist()).replace("<|im_end|>", "|").replace("\n", "")


def test_the_loss_falls_on_the_completion_alone(processor, conversations):
    prompt = [ask("What is it?", 1), {**say("A bar."), "trained": False}, ask("Which colour?")]
    whole = conversations.draft(Row("r", [(56, 84)], messages=[*prompt, say("Red.")]), KEY, 0.0)
    control = [{key: value for key, value in turn.items() if key != "trained"} for turn in prompt]
    all_trained = conversations.draft(Row("r", [(56, 84)], messages=[*control, say("Red.")]), KEY, 0.0)
    assert whole.input_ids.tolist() == all_trained.input_ids.tolist()
    assert spoken_of(whole, conversations) == "Red.|"
    assert spoken_of(all_trained, conversations) == "A bar.|Red.|"


def test_a_prompt_whose_completion_does_not_fit_is_left_out(processor, conversations):
    prompt = [ask("What is it?", 1), {**say("A bar."), "trained": False}, ask("Which colour?")]
    row = Row("r", [(56, 84)], messages=[*prompt, say("Red. " * 50), ask("Sure?"), say("Yes. " * 50)])
    length = len(conversations.draft(row, KEY, 0.0))
    fitting = Conversations(processor, length - 1).draft(row, KEY, 0.0)
    assert "Yes." not in spoken_of(fitting, conversations)
    with pytest.raises(UnusableRecord, match="its first turns do not fit"):
        Conversations(processor, len(fitting) - 1).draft(row, KEY, 0.0)
