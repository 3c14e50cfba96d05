"""The runner of retrieval over published test sets, see `protocols`."""

import random
from collections.abc import Sequence
from pathlib import Path

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_pictures, embed_texts, kept_conditions, preparation
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.result import Measured, Outcome, Settings
from finevit_eval.retrieval.outcome import EmbeddedPool, find_pictures, find_texts
from finevit_eval.retrieval.pool import fingerprint
from finevit_eval.retrieval.protocols.reading import Captioned
from finevit_eval.retrieval.protocols.table import PROTOCOLS

WAYS = {"t2i": find_pictures, "i2t": find_texts}


def retrieve_published(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Find pictures by texts ("<protocol>_t2i") and texts by pictures ("<protocol>_i2t") in published test sets.

    Args:
        names: Of the evaluations.
        model: Folder of model and processor, or a Hub id.
        data: The test set as its authors publish it.
        out: For what is kept of an interrupted run.
        settings: How; `limit` counts pictures, which are drawn with all of their texts; `batch_size` counts texts, and
            pictures where the model resizes all to one size.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    if settings.split != "test":
        raise ValueError(f"{names[0]} is always measured on the same pictures; leave split ({settings.split}) out.")
    protocols = list(dict.fromkeys(name.rpartition("_")[0] for name in names))
    pools = {protocol: read_pool(protocol, data, settings.limit, settings.seed) for protocol in protocols}
    embedder = Embedder.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    outcomes: dict[str, Outcome] = {}
    skipped: list[str] = []
    with Kept(out / KEPT_FILE, kept_conditions(model, embedder, settings)) as kept:
        for protocol, captioned in pools.items():
            pool, problems = _embed(embedder, protocol, captioned, data, settings, kept)
            skipped += problems
            ways = (way for way in WAYS if f"{protocol}_{way}" in names)
            outcomes |= {f"{protocol}_{way}": WAYS[way](pool) for way in ways}
    facts = {**embedder.facts, "preparation": preparation(embedder), "skipped": list(dict.fromkeys(skipped))}
    return Measured(outcomes, facts)


def read_pool(protocol: str, data: Path, limit: int | None = None, seed: int = 0) -> Captioned:
    """The pictures and texts of a protocol, in its order.

    Args:
        limit: Most pictures, drawn with `seed`.

    Raises:
        ValueError: The folder has another layout, pictures are missing, or there are fewer than two.
    """
    read, layout = PROTOCOLS[protocol].read, PROTOCOLS[protocol].layout
    try:
        captioned = read(data)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{data} has rows of another form ({error!r}); expected {layout}.") from error
    if missing := [picture for picture, _ in captioned if not picture.is_file()]:
        raise ValueError(f"{len(missing)} of {len(captioned)} pictures are missing, {missing[0]} first; see {layout}.")
    if len(captioned) < 2:
        raise ValueError(f"{data} has {len(captioned)} pictures; expected {layout}.")
    if limit is not None and limit < len(captioned):
        captioned = [captioned[place] for place in sorted(random.Random(seed).sample(range(len(captioned)), limit))]
    return captioned


def _embed(
    embedder: Embedder, protocol: str, captioned: Captioned, data: Path, settings: Settings, kept: Kept
) -> tuple[EmbeddedPool, list[str]]:
    """The pool, and "id: reason" of pictures that cannot be read."""
    names = {picture: picture.relative_to(data).as_posix() for picture, _ in captioned}
    pictures = embed_pictures(embedder, ((path, path.read_bytes()) for path in names), settings, kept)
    problems = {path: why for path in names if (why := pictures.problem(path))}
    readable = [(path, texts) for path, texts in captioned if path not in problems]
    rows = [(owner, path, text) for owner, (path, texts) in enumerate(readable) for text in texts]
    texts, device = [text for _, _, text in rows], embedder.model.device
    facts = {
        "fingerprint": fingerprint((names[path], text, pictures.digests[path]) for _, path, text in rows),
        "pictures": len(readable),
        "texts": len(texts),
        "pictures_published": PROTOCOLS[protocol].pictures,
    }
    pool = EmbeddedPool(
        [names[path] for path, _ in readable],
        texts,
        [owner for owner, _, _ in rows],
        pictures.stacked(path for path, _ in readable).to(device),
        embed_texts(embedder, texts, settings.batch_size, kept).to(device),
        facts,
        lambda ids: ((names[path], path.read_bytes()) for path, _ in readable if names[path] in ids),
    )
    return pool, [f"{names[path]}: {why}" for path, why in problems.items()]
