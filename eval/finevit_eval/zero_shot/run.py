"""The runner of zero-shot classification.

Shape suffixes: N pictures, C classes, D width of the embeddings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_pictures, kept_conditions, preparation
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.labelled.accuracy import accuracy, class_ranks
from finevit_eval.labelled.class_names import class_names, real_labels
from finevit_eval.labelled.pictures_by_class import LabelledPicture, read_labelled
from finevit_eval.result import Measured, Outcome, Settings
from finevit_eval.retrieval.pool import fingerprint
from finevit_eval.retrieval.ranks import TIE
from finevit_eval.zero_shot.class_prompts import PROMPTS
from finevit_eval.zero_shot.text_weights import class_weights, text_conditions, weights_file


class _Seen(NamedTuple):
    """Pictures that could be read, their embeddings, the names of all classes, and all right classes of each picture
    where there are reassessed labels.
    """

    pictures: list[LabelledPicture]
    images_ND: torch.Tensor
    names: list[str]
    real: list[set[int]] | None


def classify(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Tell the classes of pictures by the texts that name them.

    Args:
        names: Of the evaluations, see `PROMPTS`.
        model: Folder of model and processor, or a Hub id.
        data: See `read_labelled` and `class_names`; with `real.json` beside ImageNet's validation set, "real" is the
            accuracy by its labels.
        out: For what is kept of an interrupted run.
        settings: How; `limit` counts pictures.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    split = read_labelled(data, settings.split).drawn(settings.limit, settings.seed)
    called = class_names(data, split)
    real = real_labels(data, split.pictures, split.classes)
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    with Kept(out / KEPT_FILE, kept_conditions(model, embedder, settings)) as kept:
        stream = ((picture.id, picture.read()) for picture in split.pictures)
        found = embed_pictures(embedder, stream, settings, kept)
    readable = [row for row, picture in enumerate(split.pictures) if not found.problem(picture.id)]
    pictures = [split.pictures[row] for row in readable]
    images_ND = found.stacked(picture.id for picture in pictures)
    seen = _Seen(pictures, images_ND, called, [real[row] for row in readable] if real else None)
    content = fingerprint((one.id, called[one.label], found.digests[one.id]) for one in pictures)
    facts = {"fingerprint": content, "classes": called}
    conditions = text_conditions(model, embedder)
    outcomes = {}
    with Kept(weights_file(conditions), conditions) as kept:
        for name in names:
            weights_CD = class_weights(embedder, called, PROMPTS[name], settings.batch_size, kept)
            outcomes[name] = _outcome(seen, weights_CD, {**facts, "prompts": PROMPTS[name]})
    skipped = [f"{one.id}: {why}" for one in split.pictures if (why := found.problem(one.id))]
    return Measured(outcomes, {**embedder.facts, "preparation": preparation(embedder), "skipped": skipped})


def _outcome(seen: _Seen, weights_CD: torch.Tensor, facts: dict[str, Any]) -> Outcome:
    """ "shuffled" is acc@1 where each class has the name of another."""
    labels_N = torch.tensor([picture.label for picture in seen.pictures])
    cosines_NC = seen.images_ND @ weights_CD.T
    classes = len(seen.names)
    shuffled_NC = cosines_NC.roll(classes // 2, dims=1)
    controls = {"shuffled": float(class_ranks(shuffled_NC, labels_N, TIE).hits(1).mean()), "chance": 1 / classes}
    others = {} if seen.real is None else {"real": real_accuracy(cosines_NC, seen.real)}
    return accuracy(class_ranks(cosines_NC, labels_N, TIE), seen.pictures, seen.names, others, controls, facts)


def real_accuracy(cosines_NC: torch.Tensor, right: Sequence[set[int]]) -> float:
    """Share of pictures whose best class is one of the right ones; pictures that have none do not count (Beyer et al.
    2020). Among equals the share of right ones counts.
    """
    best_NC = cosines_NC >= cosines_NC.max(dim=1, keepdim=True).values - TIE
    tops = [(set(row.nonzero()[:, 0].tolist()), own) for row, own in zip(best_NC, right, strict=True) if own]
    return sum(len(top & own) / len(top) for top, own in tops) / len(tops)
