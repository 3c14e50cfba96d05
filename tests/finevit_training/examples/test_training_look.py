"""A look says how long rows are in training, and shows what is trained."""

import pytest

from finecap.sources.door import open_source
from finecap.sources.look import look_at
from finevit_training.examples.conversation import Conversations
from finevit_training.examples.training_look import look_at_training, rendered, training_report
from tests.support.training_data import ids_of, loader_of

MIXTURE = {"qa": 100, "transcribe": 1, "global_caption": 1}


@pytest.fixture
def rows(nano_corpus):
    return [row for _, _, row in look_at(open_source(str(nano_corpus)), 1000).usable]


def test_lengths_and_packs_are_those_of_the_first_epoch(rows, processor, reader_for):
    seen = look_at_training(rows, Conversations(processor, 700, mixture=MIXTURE, seed=3))
    batches = list(loader_of(reader_for(mixture=MIXTURE, max_length=700, seed=3)))
    trained = {
        name: length for batch in batches for name, length in zip(batch["ids"], batch["lengths"].tolist(), strict=True)
    }
    assert {draft.id: len(draft) for draft in seen.drafts} == trained
    assert sum(len(one.samples) for one in seen.packs) == len(seen.drafts) == len(ids_of(batches))
    text = training_report(seen, Conversations(processor, 700, mixture=MIXTURE, seed=3))
    assert f"{len(seen.drafts)} of {len(rows)} fit" in text
    real = sum(trained.values()) / (700 * len(seen.packs))
    assert f"packed: {len(seen.packs)} rows of tokens, {real:.1%} of their tokens are real" in text


def test_what_is_too_long_is_measured_whole_and_said(rows, processor):
    wide = look_at_training(rows, Conversations(processor, 4096, mixture=MIXTURE))
    lengths = sorted(wide.lengths)
    limit = lengths[len(lengths) // 2]
    seen = look_at_training(rows, Conversations(processor, limit, mixture=MIXTURE))
    assert seen.lengths == wide.lengths
    longer = sum(length > limit for length in lengths)
    assert longer == seen.shortened + seen.left_out["its first turns do not fit"]
    assert all(len(draft) <= limit for draft in seen.drafts)


def test_rows_with_nothing_to_ask_are_counted_by_reason(rows, processor):
    conversations = Conversations(processor, 4096, mixture={"qa": 0, "easyvqa": 1})
    seen = look_at_training(rows, conversations)
    assert all(kind.startswith("nothing can be asked about it with this mixture") for kind in seen.left_out)
    assert 0 < seen.left_out.total() == len(rows) - len(seen.drafts) < len(rows)
    for kind, count in seen.left_out.items():
        assert f"left out: {count} {kind!r}, such as " in training_report(seen, conversations)
    assert set(seen.tasks) == {"easyvqa"}


def test_the_trained_part_is_marked_and_a_picture_is_one_token_with_its_number(rows, processor):
    conversations = Conversations(processor, 4096, mixture={"qa": 0, "global_caption": 1})
    row = next(row for row in rows if row.record["global_caption"])
    text = rendered(look_at_training([row], conversations).drafts[0], conversations)
    caption = row.record["global_caption"].strip()
    assert f">>{caption}<|im_end|>" in text
    assert text.count("<<") == 1
    assert "<|vision_start|><|image_pad|> x " in text
    assert text.count("<|image_pad|>") == 1
    assert text.startswith("<|im_start|>")


def test_share_of_real_tokens_is_of_packed_rows(rows, processor):
    seen = look_at_training(rows, Conversations(processor, 1024, mixture=MIXTURE))
    # Negative control: in rows of their own, conversations would need more rows.
    assert len(seen.packs) < len(seen.drafts)
    assert sum(map(len, seen.drafts)) == sum(row.tokens for row in seen.packs)
    assert all(row.tokens <= 1024 for row in seen.packs)
