"""A contrastive stage sees one caption of a picture: of the kinds in their shares, of the captioners evenly."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.sentences import sentences
from finecap.tasks.captions import DEFAULT_SHARES, choose_caption

DENSE = "A page. It is white. The total is 7. Ann signed it."


def caption(style, text, captioner="one"):
    return {"style": style, "text": text, "captioner": captioner}


def record(*captions, global_caption=None):
    return {"id": "1", "global_caption": global_caption, "captioner": "one", "captions": list(captions)}


def chosen(item, shares, times=2000):
    return Counter(choose_caption(item, f"0/{index}", shares) for index in range(times))


FULL = record(caption("short", "A page"), caption("dense", DENSE), global_caption="A form: total 7.")
texts = st.none() | st.sampled_from(["", " ", "A cat.", "A cat. A dog.", DENSE])
records = st.builds(
    lambda items, text: record(*items, global_caption=text),
    st.lists(st.builds(caption, st.sampled_from(["short", "dense", "poem"]), texts, st.sampled_from(["one", "two"]))),
    texts,
)


@given(records, st.text(max_size=5))
def test_a_seed_always_chooses_the_same_caption_of_the_record(item, seed):
    said = [item["global_caption"], *(one["text"] for one in item["captions"])]
    text = choose_caption(item, seed)
    assert text == choose_caption(item, seed)
    assert text is None or (text == text.strip() != "" and any(text in (whole or "") for whole in said))


def test_kinds_are_chosen_in_their_shares():
    counts = chosen(FULL, {"short": 1, "dense": 2, "global": 1})
    assert counts["A page"] == pytest.approx(500, abs=80)
    assert counts[DENSE] == pytest.approx(1000, abs=80)


def test_a_share_that_changes_moves_no_sample_away_from_another_kind():
    without, with_sub = {"short": 1, "dense": 1}, {"short": 1, "dense": 1, "sub": 1}
    moved = {(choose_caption(FULL, str(n), without), choose_caption(FULL, str(n), with_sub)) for n in range(300)}
    assert ("A page", DENSE) not in moved
    assert (DENSE, "A page") not in moved
    assert len(moved) > 4


@given(st.integers(0, 500))
def test_a_sub_caption_is_up_to_three_neighbouring_sentences_and_never_the_whole(seed):
    text = choose_caption(FULL, str(seed), {"sub": 1})
    assert text in DENSE
    assert text != DENSE
    assert set(sentences(text)) <= set(sentences(DENSE))
    assert 1 <= len(sentences(text)) <= 3


def test_every_sentence_of_a_dense_caption_turns_up_alone():
    assert set(sentences(DENSE)) <= set(chosen(FULL, {"sub": 1}))


def test_captioners_are_mixed_evenly_however_much_each_wrote():
    both = [caption("dense", "Two.", "two"), caption("dense", "Again.", "two"), caption("dense", None, "two")]
    item = record(caption("dense", "One.", "one"), *both)
    counts = chosen(item, {"dense": 1})
    assert counts["One."] == pytest.approx(1000, abs=80)
    assert counts["Two."] == pytest.approx(500, abs=80)


def test_a_dense_caption_that_is_the_global_one_too_is_cut_as_one_caption():
    item = record(caption("dense", "Red. Round."), caption("dense", "Old. Worn."), global_caption="Red. Round.")
    counts = chosen(item, {"sub": 1})
    assert counts["Red."] + counts["Round."] == pytest.approx(1000, abs=80)


def test_a_picture_without_captions_has_none():
    empty = record(caption("short", None), caption("dense", " "))
    assert choose_caption(empty, "0") is None
    assert choose_caption({"id": "1"}, "0") is None
    assert choose_caption(record(global_caption="A cat."), "0", {"sub": 1, "short": 1}) is None
    assert choose_caption(record(global_caption="A cat."), "0", DEFAULT_SHARES) == "A cat."


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"long": 1}, r"'long', which is no kind; expected some of global, short, dense, sub"),
        ({"short": -1}, r"captions\['short'\] is -1"),
        ({"short": float("nan")}, "nan"),
        ({"short": True}, "True"),
        ({"short": 0}, "above 0"),
        ({}, "above 0"),
    ],
)
def test_shares_that_cannot_be_drawn_from_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        choose_caption(FULL, "0", shares)
