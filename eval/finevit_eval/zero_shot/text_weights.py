"""One vector of each class from its prompts, computed once for a model and kept by content.

Shape suffixes: C classes, D width of the embeddings.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import cached_assets_path
from torch.nn.functional import normalize

from finecap.made_with import package_versions, weight_hashes
from finevit_eval.embedder import Embedder
from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.receipts import local_folder
from finevit_eval.zero_shot.class_prompts import filled

PACKAGES = ("torch", "transformers", "tokenizers")


def class_weights(
    embedder: Embedder, names: Sequence[str], prompts: Sequence[str], batch_size: int, kept: Kept
) -> torch.Tensor:
    """The classifier's weights: of each class the mean of its prompts' embeddings, brought to norm 1 (Radford et al.
    2021, section 3.1.4).

    Args:
        names: Of the classes.
        prompts: With {} for the name.
        batch_size: Texts at once.
        kept: What was computed before, see `text_conditions`; what is computed now is added to it.

    Returns:
        `(C, D)` float32, on the CPU.
    """
    texts = {name: filled(prompts, name) for name in names}
    keys = {name: hashlib.sha256(json.dumps(own).encode()).hexdigest() for name, own in texts.items()}
    known = kept.get(keys.values())
    new = [name for name in texts if keys[name] not in known]
    together = max(1, batch_size // len(prompts))
    for first in range(0, len(new), together):
        group = new[first : first + together]
        means_CD = _means([texts[name] for name in group], embedder, batch_size)
        found = {keys[name]: mean_D.numpy().tobytes() for name, mean_D in zip(group, means_CD, strict=True)}
        kept.put(found)
        known |= found
    return torch.from_numpy(np.stack([np.frombuffer(known[keys[name]], np.float32) for name in names]))


def _means(texts: Sequence[Sequence[str]], embedder: Embedder, batch_size: int) -> torch.Tensor:
    """Of as many texts of each class."""
    flat = [text for own in texts for text in own]
    vectors = torch.cat([embedder.texts(flat[at : at + batch_size]) for at in range(0, len(flat), batch_size)])
    return normalize(vectors.unflatten(0, (len(texts), -1)).mean(dim=1), dim=-1).cpu()


def text_conditions(model: str, embedder: Embedder) -> dict[str, Any]:
    """What a text's embedding depends on besides the text, see `Kept`."""
    return {
        "weights": weight_hashes(local_folder(model)),
        "length": embedder.text_length,
        "dtype": str(embedder.model.dtype),
        "device": embedder.model.device.type,
        "versions": package_versions(PACKAGES),
    }


def weights_file(conditions: Mapping[str, Any]) -> Path:
    """Where they are kept: with the Hub's assets, in a folder for each model."""
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()
    return cached_assets_path("finevit", namespace="class_weights", subfolder=digest[:16]) / KEPT_FILE
