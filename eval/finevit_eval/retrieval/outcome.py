"""R@k of an embedded pool, both ways, with its controls and one sample for each query.

N: pictures; M: texts; D: width of the embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finevit_eval.result import Outcome, Pictures
from finevit_eval.retrieval.ranks import Ranks, rank_groups

OTHERS = (5, 10)
"""R@k besides R@1, the headline."""


@dataclass(frozen=True)
class EmbeddedPool:
    """Pictures and texts that are looked for among each other.

    Attributes:
        ids: Of the pictures, N.
        texts: M.
        owners: For each text the number of the picture that it belongs to, M.
        images_ND, texts_MD: Embeddings of norm 1, float32, on the device that ranks them.
        facts: For the receipt.
        pictures: Reads pictures by their ids, for the report.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    owners: Sequence[int]
    images_ND: torch.Tensor
    texts_MD: torch.Tensor
    facts: Mapping[str, Any]
    pictures: Pictures


def find_pictures(pool: EmbeddedPool) -> Outcome:
    """Text-to-image: each text looks for its picture among all."""
    owners_M = torch.tensor(pool.owners)
    pictures_N = torch.arange(len(pool.ids))
    ranks = rank_groups(pool.texts_MD, pool.images_ND, owners_M, pictures_N)
    shuffled = rank_groups(pool.texts_MD, pool.images_ND, _others(owners_M), pictures_N)
    samples = [
        {
            "id": name,
            "group": pool.ids[owner],
            "question": text,
            "truth": pool.ids[owner],
            "prediction": pool.ids[best],
        }
        for name, text, owner, best in zip(_text_ids(pool), pool.texts, pool.owners, ranks.best.tolist(), strict=True)
    ]
    return _outcome(pool, samples, ranks, shuffled, 1 / len(pool.ids), range(len(pool.ids)))


def find_texts(pool: EmbeddedPool) -> Outcome:
    """Image-to-text: each picture looks for any of its texts among all, as CLIP counts: a hit and not a share."""
    owners_M = torch.tensor(pool.owners)
    asked_Q, texts_Q = owners_M.unique(return_counts=True)
    images_QD = pool.images_ND[asked_Q.to(pool.images_ND.device)]
    ranks = rank_groups(images_QD, pool.texts_MD, asked_Q, owners_M)
    shuffled = rank_groups(images_QD, pool.texts_MD, _others(asked_Q), owners_M)
    truths: dict[int, list[str]] = {}
    for owner, text in zip(pool.owners, pool.texts, strict=True):
        truths.setdefault(owner, []).append(text)
    samples = [
        {
            "id": pool.ids[picture],
            "group": pool.ids[picture],
            "question": pool.ids[picture],
            "truth": truths[picture] if len(truths[picture]) > 1 else truths[picture][0],
            "prediction": pool.texts[best],
        }
        for picture, best in zip(asked_Q.tolist(), ranks.best.tolist(), strict=True)
    ]
    chance = float((texts_Q.double() / len(pool.texts)).mean())
    return _outcome(pool, samples, ranks, shuffled, chance, pool.owners)


def _outcome(
    pool: EmbeddedPool,
    samples: list[dict[str, Any]],
    ranks: Ranks,
    shuffled: Ranks,
    chance: float,
    picture_of: Sequence[int],
) -> Outcome:
    """`picture_of` an item the number of its picture."""
    hits = ranks.hits(1)
    columns = (column.tolist() for column in (*ranks, hits))
    for sample, above, equal, own, top, score in zip(samples, *columns, strict=True):
        sample |= {"rank": above + 1, "equal": equal, "score": score}
        as_similar = dict.fromkeys(pool.ids[picture_of[item]] for item in top[: above + equal + own])
        if confused := [name for name in as_similar if name != sample["group"]]:
            sample["confused"] = confused
    others = {f"r@{k}": float(ranks.hits(k).mean()) for k in OTHERS}
    controls = {"shuffled": float(shuffled.hits(1).mean()), "chance": chance}
    return Outcome(float(hits.mean()), samples, others, controls, facts=pool.facts, pictures=pool.pictures)


def _others(pictures: torch.Tensor) -> torch.Tensor:
    """Another picture instead of each, the same one for texts of one picture."""
    distinct, places = pictures.unique(return_inverse=True)
    return distinct.roll(len(distinct) // 2)[places]


def _text_ids(pool: EmbeddedPool) -> list[str]:
    """The id of its picture; of further texts of a picture, with a number behind it."""
    met: dict[int, int] = {}
    names = []
    for owner in pool.owners:
        met[owner] = number = met.get(owner, 0) + 1
        names.append(pool.ids[owner] if number == 1 else f"{pool.ids[owner]}/{number}")
    return names
