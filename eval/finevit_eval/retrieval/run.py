"""The runner of text-to-image and image-to-text retrieval."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from finecap.pictures import BadPicture, open_rgb
from finevit_eval.embedder import Embedder
from finevit_eval.result import GREY, Measured, Outcome, Settings
from finevit_eval.retrieval.pool import Pair, Place, choose_pairs, fingerprint, pictures_of, read_pictures
from finevit_eval.retrieval.ranks import rank_pairs

MAX_PIXELS = 200_000_000
"""Larger pictures are left out."""


def retrieve(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Find pictures by captions ("t2i_<style>") and captions by pictures ("i2t_<style>") in a pool of a FineCap split.

    Each caption belongs to one picture, see `pool`. R@k is the share whose own picture or caption is among the first
    k; equals stand in random order, of which the expectation is taken. "shuffled" is R@1 where every picture has the
    caption of another one: what chance gives.

    Args:
        names: Of the evaluations.
        model: Folder of model and processor, or a Hub id.
        data: FineCap records in the Hub's layout.
        out: Nothing is exported.
        settings: How; `batch_size` counts pictures and texts.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    styles = list(dict.fromkeys(name.partition("_")[2] for name in names))
    pools = {style: choose_pairs(data, settings.split, style, settings.limit, settings.seed) for style in styles}
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    pictures = _embed_pictures(embedder, {pair.place: pair for pool in pools.values() for pair in pool}, settings)
    embedded = {style: _embed_pool(embedder, pool, pictures, settings) for style, pool in pools.items()}
    outcomes = {name: _outcome(name, embedded[name.partition("_")[2]]) for name in names}
    size = dict(embedder.processor.image_processor.size)
    return Measured(
        outcomes,
        {
            "max_pixels": size.get("longest_edge", str(size)),
            "device": str(embedder.model.device),
            "dtype": str(embedder.model.dtype).removeprefix("torch."),
            "skipped": pictures.skipped,
        },
    )


class _Pictures(NamedTuple):
    """Embedding and SHA-256 of each picture that could be read, and "id: reason" of the others."""

    embeddings: dict[Place, torch.Tensor]
    digests: dict[Place, str]
    skipped: list[str]


def _embed_pictures(embedder: Embedder, pairs: dict[Place, Pair], settings: Settings) -> _Pictures:
    embeddings: dict[Place, torch.Tensor] = {}
    digests: dict[Place, str] = {}
    skipped: list[str] = []
    batch: dict[Place, Image.Image] = {}
    for pair, data in read_pictures([pairs[place] for place in sorted(pairs)]):
        try:
            image = open_rgb(data, MAX_PIXELS)
        except BadPicture as error:
            skipped.append(f"{pair.id}: {error}")
            continue
        digests[pair.place] = hashlib.sha256(data).hexdigest()
        batch[pair.place] = Image.new("RGB", image.size, GREY) if settings.blind else image
        if len(batch) == settings.batch_size:
            embeddings.update(zip(batch, embedder.images(list(batch.values())), strict=True))
            batch = {}
    if batch:
        embeddings.update(zip(batch, embedder.images(list(batch.values())), strict=True))
    return _Pictures(embeddings, digests, skipped)


class _Pool(NamedTuple):
    """Pairs whose pictures could be read, embeddings of both (N, D), and facts for the receipt."""

    pairs: list[Pair]
    images_ND: torch.Tensor
    texts_ND: torch.Tensor
    facts: dict[str, Any]


def _embed_pool(embedder: Embedder, pool: Sequence[Pair], pictures: _Pictures, settings: Settings) -> _Pool:
    pairs = [pair for pair in pool if pair.place in pictures.embeddings]
    captions = [pair.caption for pair in pairs]
    size = settings.batch_size
    texts = [embedder.texts(captions[first : first + size]) for first in range(0, len(captions), size)]
    facts = {"fingerprint": fingerprint(pairs, pictures.digests)}
    return _Pool(pairs, torch.stack([pictures.embeddings[pair.place] for pair in pairs]), torch.cat(texts), facts)


def _outcome(name: str, pool: _Pool) -> Outcome:
    """R@k, and one sample for each query."""
    pairs, images_ND, texts_ND, facts = pool
    ids, captions = [pair.id for pair in pairs], [pair.caption for pair in pairs]
    by_text = name.startswith("t2i")
    queries_ND, items_ND = (texts_ND, images_ND) if by_text else (images_ND, texts_ND)
    questions, answers = (captions, ids) if by_text else (ids, captions)
    ranks = rank_pairs(queries_ND, items_ND)
    scores = ranks.hits(1).tolist()
    samples = [
        {
            "id": ids[row],
            "group": ids[row],
            "question": questions[row],
            "truth": answers[row],
            "prediction": answers[int(ranks.best[row])],
            "rank": int(ranks.above[row]) + 1,
            "equal": int(ranks.equal[row]),
            "score": scores[row],
            **({"confused": [ids[int(ranks.best[row])]]} if by_text and scores[row] < 1 else {}),
        }
        for row in range(len(pairs))
    ]
    others = {f"r@{k}": float(ranks.hits(k).mean()) for k in (5, 10)}
    shuffled = rank_pairs(queries_ND, items_ND.roll(len(pairs) // 2, dims=0))
    controls = {"shuffled": float(shuffled.hits(1).mean()), "chance": 1 / len(pairs)}
    hits = float(ranks.hits(1).mean())
    return Outcome(hits, samples, others, controls, facts=facts, pictures=lambda wanted: pictures_of(pairs, wanted))
