"""The runner of text-to-image and image-to-text retrieval over FineCap records."""

from collections.abc import Sequence
from pathlib import Path

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import EmbeddedPictures, embed_pictures, embed_texts, kept_conditions, preparation
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.result import Measured, Settings
from finevit_eval.retrieval.outcome import EmbeddedPool, find_pictures, find_texts
from finevit_eval.retrieval.pool import Pair, choose_pairs, fingerprint, pictures_of, read_pictures


def retrieve(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Find pictures by captions ("t2i_<style>") and captions by pictures ("i2t_<style>") in a pool of a FineCap split.

    Each caption belongs to one picture, see `pool`. R@k is the share whose own picture or caption is among the first
    k; equals stand in random order, of which the expectation is taken. "shuffled" is R@1 where every picture has the
    caption of another one: what chance gives.

    Args:
        names: Of the evaluations.
        model: Folder of model and processor, or a Hub id.
        data: FineCap records in the Hub's layout.
        out: For what is kept of an interrupted run.
        settings: How; `batch_size` counts texts, and pictures where the model resizes all to one size.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    styles = list(dict.fromkeys(name.partition("_")[2] for name in names))
    pools = {style: choose_pairs(data, settings.split, style, settings.limit, settings.seed) for style in styles}
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    by_place = {pair.place: pair for pool in pools.values() for pair in pool}
    with Kept(out / KEPT_FILE, kept_conditions(model, embedder, settings)) as kept:
        stream = ((pair.place, image) for pair, image in read_pictures([by_place[at] for at in sorted(by_place)]))
        pictures = embed_pictures(embedder, stream, settings, kept)
        embedded = {
            style: _embed_pool(embedder, pool, pictures, settings.batch_size, kept) for style, pool in pools.items()
        }
    outcomes = {}
    for name in names:
        way, _, style = name.partition("_")
        outcomes[name] = (find_pictures if way == "t2i" else find_texts)(embedded[style])
    skipped = [f"{by_place[at].id}: {why}" for at in sorted(by_place) if (why := pictures.problem(at))]
    return Measured(outcomes, {**embedder.facts, "preparation": preparation(embedder), "skipped": skipped})


def _embed_pool(
    embedder: Embedder, pool: Sequence[Pair], pictures: EmbeddedPictures, batch_size: int, kept: Kept
) -> EmbeddedPool:
    pairs = [pair for pair in pool if not pictures.problem(pair.place)]
    captions = [pair.caption for pair in pairs]
    device = embedder.model.device
    return EmbeddedPool(
        [pair.id for pair in pairs],
        captions,
        range(len(pairs)),
        pictures.stacked(pair.place for pair in pairs).to(device),
        embed_texts(embedder, captions, batch_size, kept).to(device),
        {"fingerprint": fingerprint((pair.id, pair.caption, pictures.digests[pair.place]) for pair in pairs)},
        lambda ids: pictures_of(pairs, ids),
    )
