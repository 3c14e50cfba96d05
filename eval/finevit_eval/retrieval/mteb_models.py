"""Models for mteb (`mteb.evaluate(model, tasks)`): FineViT-Dual, SigLIP, CLIP, ..., and bare encoders for pictures."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from PIL import Image

from finecap.made_with import weight_hashes
from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_images, preparation
from finevit_eval.receipts import local_folder


class MtebEmbedder(AbsEncoder):
    """An `Embedder` as mteb wants its models; pictures are encoded in packs, whatever mteb's batches are.

    mteb finds earlier scores by name and revision. The revision is a hash of weights, dtype and preparation, so that
    neither a folder that was trained anew nor another pixel budget gets the score of the former.

    Args:
        embedder: The model; mteb gives texts only to those that read.
        folder: Where it was loaded from, or its Hub id.
    """

    def __init__(self, embedder: Embedder, folder: str) -> None:
        self.model = embedder
        depends_on = [weight_hashes(local_folder(folder)), embedder.facts["dtype"], preparation(embedder)]
        meta = {
            "name": f"local/{Path(folder).resolve().name}" if Path(folder).is_dir() else folder,
            "revision": hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest(),
            "modalities": ["image", "text"] if embedder.reads_text else ["image"],
            "similarity_fn_name": ScoringFunction.COSINE,
        }
        self.mteb_model_meta = ModelMeta.create_empty(meta)

    @classmethod
    def from_pretrained(
        cls, folder: str, device: str | None = None, dtype: str = "auto", max_pixels: int | None = None
    ) -> "MtebEmbedder":
        """As `Embedder.from_pretrained`."""
        return cls(Embedder.from_pretrained(folder, device, dtype, max_pixels), folder)

    def encode(self, inputs: Any, *, batch_size: int = 32, **kwargs: Any) -> torch.Tensor:
        """Embeddings of the rows of a loader, `(num_rows, width)`; of rows of a picture and a text the sum of both, as
        in mteb's own models.

        Args:
            inputs: mteb's loader; its batches have lists of pictures ("image") or texts ("text") or both.
            batch_size: Of texts, and of pictures where the model resizes all to one size.
            kwargs: What mteb says of the task, which changes nothing.
        """
        texts: list[str] = []

        def pictures() -> Iterator[Image.Image]:
            for batch in inputs:
                texts.extend(batch.get("text", ()))
                yield from batch.get("image", ())

        if "image" not in inputs.dataset.features:
            deque(pictures(), maxlen=0)
            return self._texts(texts, batch_size)
        embeddings = embed_images(self.model, pictures(), batch_size)
        return embeddings + self._texts(texts, batch_size) if texts else embeddings

    def _texts(self, texts: list[str], batch_size: int) -> torch.Tensor:
        starts = range(0, len(texts), batch_size)
        return torch.cat([self.model.texts(texts[start : start + batch_size]).cpu() for start in starts])
