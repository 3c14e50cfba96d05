"""What a training would make of rows: their lengths in tokens, how full packed rows are, and the first turns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from finecap.sources.rows import Row
from finevit_training.data.bad_records import UnusableRecord, reason_kind
from finevit_training.data.order import SMALL_WINDOW, RowKey
from finevit_training.data.plan import Pack, Sized, plan_round
from finevit_training.examples.conversation import Conversations, Draft
from finevit_vl.losses import IGNORE_INDEX

FIRST = 3  # conversations that are shown
SHOWN_CHARACTERS = 1500  # of each of them
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
BINS, BAR = 10, 40  # of the histogram: lines, and characters of the longest
TRAINED = ">>", "<<"  # around what the loss falls on
_NO_LIMIT = 2**30


@dataclass
class TrainingLook:
    """What a training would make of some rows.

    Attributes:
        rows: how many there were.
        lengths: tokens of each usable row's conversation, with all its turns.
        drafts: the conversations as they fit into `max_length`.
        shortened: conversations without their last turns, which did not fit.
        packs: of the drafts.
        tasks: turns of each task or qa kind in the drafts' records.
        left_out: rows, and parts of rows, that are not trained on, by kind of reason; `examples` has one of each kind.
    """

    rows: int = 0
    lengths: list[int] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    shortened: int = 0
    packs: list[Pack] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def look_at_training(rows: Sequence[Row], conversations: Conversations) -> TrainingLook:
    """Drafts rows as the beginning of a training does; no picture is decoded.

    Args:
        rows: usable rows, see `finecap.sources.look.look_at`.
        conversations: of the training that is thought of.
    """
    seen = TrainingLook(rows=len(rows))
    unlimited = replace(conversations, max_length=_NO_LIMIT)
    sized: list[Sized] = []
    for number, row in enumerate(rows):
        key = RowKey(0, 0, number, 0)
        try:
            draft = unlimited.draft(row, key, 0.0)
            seen.lengths.append(len(draft))
            if len(draft) > conversations.max_length:
                draft = conversations.draft(row, key, 0.0)
                seen.shortened += 1
        except UnusableRecord as error:
            _leave_out(seen, row.id, str(error))
            continue
        if row.record is not None:
            seen.tasks.update(turn.task for turn in conversations.turns(row, key, 0.0))
        for reason in draft.left_out:
            _leave_out(seen, row.id, reason)
        seen.drafts.append(draft)
        sized.append(Sized(key, len(draft), draft.patches))
    windows = [sized[start : start + SMALL_WINDOW] for start in range(0, len(sized), SMALL_WINDOW)]
    seen.packs = plan_round(windows, conversations.max_length, block=1, seed=(conversations.seed, 0, 0))
    return seen


def _leave_out(seen: TrainingLook, row_id: str, reason: str) -> None:
    kind = reason_kind(reason)
    seen.left_out[kind] += 1
    seen.examples.setdefault(kind, f"{row_id}: {reason}")


def training_report(seen: TrainingLook, conversations: Conversations) -> str:
    """The look in lines of text."""
    longest = conversations.max_length
    lines = [
        f"as training takes them, in rows of {longest:,} tokens: {len(seen.drafts):,} of {seen.rows:,} fit"
        + (f", {seen.shortened:,} of them without their last turns" if seen.shortened else "")
    ]
    for kind, count in seen.left_out.most_common():
        lines.append(f"left out: {count:,} {kind!r}, such as {seen.examples[kind]}")
    if seen.lengths:
        found = np.percentile(seen.lengths, PERCENTILES)
        lines += [
            f"{'percentile':<22}" + "".join(f"{one:>9}" for one in PERCENTILES),
            f"{'tokens':<22}" + "".join(f"{one:>9.0f}" for one in found),
            *_histogram(seen.lengths),
        ]
    if seen.packs:
        real = sum(pack.tokens for pack in seen.packs) / (len(seen.packs) * longest)
        lines.append(f"packed: {len(seen.packs):,} rows of tokens, {real:.1%} of their tokens are real")
    if seen.tasks:
        total = seen.tasks.total()
        shares = ", ".join(f"{task} {count / total:.1%}" for task, count in seen.tasks.most_common())
        lines.append(f"turns: {total:,}, {total / len(seen.drafts):.1f} a row; {shares}")
    for draft in seen.drafts[:FIRST]:
        lines += [f"--- {draft.id}: {len(draft):,} tokens, trained on what stands in {' '.join(TRAINED)}"]
        lines += [rendered(draft, conversations)]
    return "\n".join(lines)


def _histogram(lengths: Sequence[int]) -> list[str]:
    counts, edges = np.histogram(lengths, bins=BINS, range=(0, max(lengths) + 1))
    return [
        f"{start:>8.0f} to {end - 1:>8.0f}  {count:>7,} {'#' * -(-int(count) * BAR // int(counts.max()))}"
        for start, end, count in zip(np.ceil(edges[:-1]), np.ceil(edges[1:]), counts, strict=True)
    ]


def rendered(draft: Draft, conversations: Conversations) -> str:
    """A conversation in words with its special tokens, marks around what is trained, and each picture's image tokens
    as one with their number.
    """
    tokenizer, image = conversations.processor.tokenizer, conversations.processor.image_token_id
    trained = draft.labels != IGNORE_INDEX
    kinds = np.where(draft.input_ids == image, 2, trained)
    starts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(draft)]
    text = ""
    for start, end in pairwise(starts):
        ids = draft.input_ids[start:end].tolist()
        if kinds[start] == 2:
            text += f"{tokenizer.decode(ids[:1])} x {end - start}"
            continue
        before, after = TRAINED if kinds[start] else ("", "")
        text += before + tokenizer.decode(ids, skip_special_tokens=False) + after
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
