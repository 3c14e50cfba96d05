"""The runner of probes: how well small classifiers on frozen features tell classes apart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from finecap.pictures import MAX_PIXELS, open_rgb
from finevit_eval.embedder import Embedder
from finevit_eval.embedding import EmbeddedPictures, embed_pictures, kept_conditions, preparation
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.labelled.accuracy import accuracy, class_ranks
from finevit_eval.labelled.pictures_by_class import LabelledPicture, LabelledSplit, read_labelled
from finevit_eval.probes import attentive, pooled
from finevit_eval.result import GREY, Measured, Outcome, Settings
from finevit_eval.retrieval.pool import fingerprint

TRAIN = "train"
TIE = 1e-6
"""Scores of a classifier that are nearer than this are alike."""
Scores = Callable[[torch.Tensor], torch.Tensor]
"""Labels of the train split to the scores of the test split, `(num_test, num_classes)`."""


class Side(NamedTuple):
    """Pictures of a split that could be read, and SHA-256 of each."""

    pictures: list[LabelledPicture]
    digests: list[str]

    @property
    def labels(self) -> torch.Tensor:
        return torch.tensor([picture.label for picture in self.pictures])


class Probed(NamedTuple):
    """What a probe learns from and is judged by."""

    train: Side
    test: Side
    classes: list[str]


def probe(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Train classifiers on the frozen features of the train split, and score them on another split.

    Args:
        names: Of the evaluations: "knn", "linear", "attentive".
        model: Folder of model and processor, or a Hub id; see `Embedder` for what its features are.
        data: See `read_labelled`; with a train split.
        out: For what is kept of an interrupted run.
        settings: How; `limit` counts pictures of each split, `seed` draws them and what a probe draws.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    train, test = _splits(data, settings)
    everything = [*train.pictures, *test.pictures]
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    with Kept(out / KEPT_FILE, kept_conditions(model, embedder, settings)) as kept:
        stream = ((picture.id, picture.read()) for picture in everything)
        found = embed_pictures(embedder, stream, settings, kept)
    probed = Probed(_side(train, found), _side(test, found), train.classes)
    outcomes = {}
    for name in names:
        scores, facts = _fit(name, probed, embedder, found, settings)
        outcomes[name] = _outcome(probed, scores, settings.seed, facts)
    skipped = [f"{one.id}: {why}" for one in everything if (why := found.problem(one.id))]
    return Measured(outcomes, {**embedder.facts, "preparation": preparation(embedder), "skipped": skipped})


def _splits(data: Path, settings: Settings) -> tuple[LabelledSplit, LabelledSplit]:
    """Train and test split, labels by the classes of the former."""
    train, test = (read_labelled(data, split) for split in (TRAIN, settings.split))
    if {picture.id for picture in train.pictures} & {picture.id for picture in test.pictures}:
        raise ValueError(
            f"{data} has no splits {TRAIN!r} and {settings.split!r} apart: a probe needs pictures to learn from and "
            f"others to be judged by, such as {TRAIN}/<class>/*.jpg and {settings.split}/<class>/*.jpg."
        )
    if foreign := [name for name in test.classes if name not in train.classes]:
        raise ValueError(f"{data}: the split {TRAIN!r} has no class {foreign[0]!r}; expected the same classes.")
    number = [train.classes.index(name) for name in test.classes]
    pictures = [picture._replace(label=number[picture.label]) for picture in test.pictures]
    judged = LabelledSplit(pictures, train.classes)
    return train.drawn(settings.limit, settings.seed), judged.drawn(settings.limit, settings.seed)


def _side(split: LabelledSplit, found: EmbeddedPictures) -> Side:
    pictures = [picture for picture in split.pictures if not found.problem(picture.id)]
    return Side(pictures, [found.digests[picture.id] for picture in pictures])


def _fit(
    name: str, probed: Probed, embedder: Embedder, found: EmbeddedPictures, settings: Settings
) -> tuple[Scores, dict[str, Any]]:
    """How a probe goes from labels to scores, and its settings for the receipt."""
    classes, labels = len(probed.classes), probed.train.labels
    if name == "attentive":
        train, test = (_patches(embedder, side.pictures, settings) for side in (probed.train, probed.test))
        device = embedder.model.device
        facts = {"epochs": attentive.EPOCHS, "batch": attentive.BATCH, "learning_rate": attentive.LEARNING_RATE}
        return lambda own: attentive.attentive_scores(train, own, test, classes, device, settings.seed), facts
    train_ND, test_MD = (
        found.stacked(picture.id for picture in side.pictures) for side in (probed.train, probed.test)
    )
    if name == "knn":
        facts = {"neighbours": pooled.NEIGHBOURS, "temperature": pooled.TEMPERATURE}
        return lambda own: pooled.knn_scores(train_ND, own, test_MD, classes), facts
    penalty = pooled.choose_penalty(train_ND, labels, settings.seed)
    return lambda own: pooled.linear_scores(train_ND, own, test_MD, classes, penalty), {"C": penalty}


def _patches(embedder: Embedder, pictures: Sequence[LabelledPicture], settings: Settings) -> list[torch.Tensor]:
    """Features of the patches of each picture, on the CPU in the model's dtype."""
    found: list[torch.Tensor] = []
    for first in range(0, len(pictures), settings.batch_size):
        images = [open_rgb(picture.read(), MAX_PIXELS) for picture in pictures[first : first + settings.batch_size]]
        if settings.blind:
            images = [Image.new("RGB", image.size, GREY) for image in images]
        found += [patches.cpu() for patches in embedder.patches(images)]
    return found


def _outcome(probed: Probed, scores: Scores, seed: int, facts: dict[str, Any]) -> Outcome:
    """ "shuffled" is acc@1 of a probe that learnt from shuffled labels, "majority" that of the train split's commonest
    class for every picture.
    """
    train, test, classes = probed
    labels = train.labels
    ranks = class_ranks(scores(labels), test.labels, TIE)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = class_ranks(scores(labels[order]), test.labels, TIE)
    controls = {
        "shuffled": float(shuffled.hits(1).mean()),
        "majority": float((test.labels == labels.bincount().argmax()).double().mean()),
    }
    sides = {"train": train, "test": test}
    content = fingerprint(
        (f"{name} {picture.id}", classes[picture.label], digest)
        for name, side in sides.items()
        for picture, digest in zip(side.pictures, side.digests, strict=True)
    )
    leaked = len(set(train.digests) & set(test.digests))
    facts = {"fingerprint": content, "train": len(labels), "also_in_train": leaked, **facts}
    return accuracy(ranks, test.pictures, classes, {}, controls, facts)
