"""Features of many pictures as files, one a picture, as they come: none but those of a pack are in memory."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from finecap.files import committed, write_json
from finevit_eval.dense.patch_encoder import PatchEncoder
from finevit_eval.dense.picture_files import open_picture
from finevit_eval.embedding import made_ahead, packs

FORMATS = ("npz", "safetensors")
Format = Literal["npz", "safetensors"]


@dataclass
class Saved:
    """What became of the pictures.

    Attributes:
        files: the file of each picture's features, by the picture's path.
        skipped: what is wrong with those that have none, by theirs.
    """

    files: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def save_features(
    encoder: PatchEncoder, files: Mapping[str, Path], out: Path, file_format: Format, model_facts: Mapping[str, Any]
) -> Saved:
    """Writes the features of pictures to `out/NAME.npz` or `.safetensors`, and what they are to `out/features.json`.

    Each file holds `features` `(rows, columns, width)`, patch `[row, column]` where the picture has it, in the model's
    dtype (float32 in npz, which has no bfloat16), and beside it: `grid` (rows, columns), `picture_size` and
    `resized_size` (width, height in pixels), `sha256` of the encoded picture, and `prepared`, JSON that says how
    pictures were prepared. In safetensors all but the features are metadata, as JSON.

    Args:
        files: pictures by their names. One that cannot be used is left out, and told in what is returned.
        model_facts: of the model, for features.json.

    Raises:
        ValueError: no picture could be used.
    """
    saved = Saved()
    sizes: dict[str, tuple[int, int]] = {}

    def prepare(name: str) -> tuple[str, Mapping[str, torch.Tensor] | ValueError]:
        try:
            picture = open_picture(files[name])
            sizes[name] = picture.size
            return name, encoder.prepare(picture)
        except ValueError as error:
            return name, error

    def usable() -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        for name, prepared in made_ahead(prepare, files):
            if isinstance(prepared, ValueError):
                saved.skipped[str(files[name])] = str(prepared).removeprefix(f"{files[name]}: ")
            else:
                yield name, prepared

    out.mkdir(parents=True, exist_ok=True)
    for names, prepared in packs(usable(), 1):
        for name, features in zip(names, encoder.encode(prepared), strict=True):
            facts = _facts(encoder, features, sizes.pop(name), files[name])
            target = out / f"{name}.{file_format}"
            _write(target, features, facts)
            saved.files[str(files[name])] = target.name
    if not saved.files:
        first = ": ".join(next(iter(saved.skipped.items())))
        raise ValueError(f"none of {len(files)} pictures could be used; the first: {first}")
    write_json(out / "features.json", {"model": model_facts, "prepared": encoder.facts, **vars(saved)})
    return saved


def _facts(encoder: PatchEncoder, features: torch.Tensor, size: tuple[int, int], file: Path) -> dict[str, Any]:
    rows, columns = features.shape[:2]
    return {
        "grid": [rows, columns],
        "picture_size": list(size),
        "resized_size": [columns * encoder.teacher.patch_size, rows * encoder.teacher.patch_size],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "prepared": encoder.facts,
    }


def _write(target: Path, features: torch.Tensor, facts: Mapping[str, Any]) -> None:
    with committed(target) as aside:
        if target.suffix == ".safetensors":
            metadata = {name: json.dumps(value) for name, value in facts.items()}
            save_file({"features": features.contiguous()}, aside, metadata=metadata)
            return
        arrays: dict[str, Any] = {name: np.array(value) for name, value in facts.items() if name != "prepared"}
        values = features.float() if features.dtype == torch.bfloat16 else features
        with aside.open("wb") as file:
            np.savez(file, features=values.numpy(), prepared=json.dumps(facts["prepared"]), **arrays)
