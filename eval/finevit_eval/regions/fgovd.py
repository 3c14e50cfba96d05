"""FG-OVD as FG-CLIP measures it: which of eleven expressions, ten of them wrong in some attribute, is a box's?

Source: 360CVGroup/FG-CLIP, `fgclip/eval/fgovd_eval.py` and `fgclip2/eval/fgovd.py`; the data are Bianchi et al. 2024.
Theirs counts a tie of the right text as right; here it counts as its share.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_texts
from finevit_eval.kept import Kept
from finevit_eval.regions.choosing import right_share
from finevit_eval.regions.layout_names import FG_OVD
from finevit_eval.regions.mixing import another_of_each, draw
from finevit_eval.regions.region_vectors import Region, RegionVectors, embed_regions
from finevit_eval.result import Outcome, Settings
from finevit_eval.retrieval.pool import fingerprint
from finevit_eval.retrieval.protocols.reading import read_json_lines

FILES = {"hard": "1_attributes", "medium": "2_attributes", "easy": "3_attributes", "trivial": "shuffle_negatives"}
"""How the file of each level begins: attributes that were changed in wrong texts; a trivial one is another box's."""


class _Row(NamedTuple):
    region: Region
    texts: list[str]
    """The right one first."""


def measure_fgovd(
    level: str, embedder: Embedder, data: Path, settings: Settings, kept: Kept
) -> tuple[Outcome, list[str]]:
    """Accuracy over the boxes of a level, and "id: reason" of what was skipped.

    Controls: "shuffled" compares each row's texts with the box of another row; "chance" is 1/11 where every row has
    ten wrong texts.

    Args:
        data: Holds `1_attributes*.jsonl` and so on, at any depth, with img_path, bbox (x, y, width, height),
            pos_expression and neg_expression; pictures lie below it as img_path says.

    Raises:
        ValueError: The folder has another layout.
    """
    rows = draw(_rows(_file(data, level), data), settings.limit, settings.seed)
    found = embed_regions(embedder, [row.region for row in rows], settings, kept)
    rows = [row for row in rows if row.region.id in found.vectors]
    texts = list(dict.fromkeys(text for row in rows for text in row.texts))
    vectors = embed_texts(embedder, texts, settings.batch_size, kept)
    places = {text: place for place, text in enumerate(texts)}
    regions_ND = torch.stack([torch.from_numpy(found.vectors[row.region.id].copy()) for row in rows])
    cosines_NC = _cosines(regions_ND, rows, vectors, places)
    own = torch.zeros(len(rows), dtype=torch.int64)
    scores = right_share(cosines_NC, own).tolist()
    shuffled = right_share(_cosines(regions_ND[another_of_each(len(rows))], rows, vectors, places), own)
    samples = [
        _sample(row, found, row.texts[best], score)
        for row, best, score in zip(rows, cosines_NC.argmax(dim=1).tolist(), scores, strict=True)
    ]
    chance = sum(1 / len(row.texts) for row in rows) / len(rows)
    facts = {
        "fingerprint": fingerprint(
            (row.region.id, f"{row.region.box}\0{row.texts}", found.digests[row.region.picture]) for row in rows
        )
    }
    controls = {"shuffled": float(shuffled.mean()), "chance": chance}
    accuracy = sum(scores) / len(scores)
    return Outcome(accuracy, samples, controls=controls, facts=facts, pictures=found.read_pictures), found.skipped


def _sample(row: _Row, found: RegionVectors, prediction: str, score: float) -> dict[str, Any]:
    return {
        "id": row.region.id,
        "group": found.digests[row.region.picture],
        "question": "Which text is this box's?",
        "box": list(row.region.box),
        "truth": row.texts[0],
        "prediction": prediction,
        "score": score,
    }


def _cosines(
    regions_ND: torch.Tensor, rows: list[_Row], texts_TD: torch.Tensor, places: dict[str, int]
) -> torch.Tensor:
    """(N, most texts of a row); -inf behind the texts of a row that has fewer."""
    cosines_NC = torch.full((len(rows), max(len(row.texts) for row in rows)), -torch.inf)
    for cosines_C, region_D, row in zip(cosines_NC, regions_ND, rows, strict=True):
        cosines_C[: len(row.texts)] = texts_TD[[places[text] for text in row.texts]] @ region_D
    return cosines_NC


def _file(data: Path, level: str) -> Path:
    files = sorted(data.rglob(f"{FILES[level]}*.jsonl"))
    if len(files) != 1:
        raise ValueError(f"{data} holds {len(files)} files {FILES[level]}*.jsonl; expected one: {FG_OVD}.")
    return files[0]


def _rows(path: Path, data: Path) -> list[_Row]:
    rows = []
    for number, line in enumerate(read_json_lines(path, FG_OVD)):
        try:
            rows.append(_row(f"{path.stem}/{number}", line, data))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has a line {number} of another form ({error!r}); expected {FG_OVD}.") from error
    if not rows:
        raise ValueError(f"{path} is empty; expected {FG_OVD}.")
    return rows


def _row(name: str, line: dict[str, Any], data: Path) -> _Row:
    x, y, width, height = line["bbox"]
    (right,) = line["pos_expression"]
    region = Region(name, data / line["img_path"].lstrip("/"), (x, y, x + width, y + height))
    return _Row(region, [right, *line["neg_expression"]])
