"""One vector for each patch of a picture, row by row, from any encoder that has patches.

Shape suffixes: T packed patches of several pictures, R rows and C columns of a picture's patches, D width.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize

from finevit_eval.embedder import Embedder
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.image_processing_pil_finevit import FineViTImageProcessing
from modeling_finevit.patches import patch_positions
from modeling_finevit.pretraining.pooling import FineViTAttentionPooling
from modeling_finevit.pretraining.teacher import Teacher, vision_tower_of

PREPARATION = ("patch_size", "merge_size", "size", "resample")


class PatchEncoder:
    """The encoder of a FineViT, FineViT-Dual or FineViT-VL, or of another library's model with patch tokens.

    A picture keeps its aspect and is brought to a whole number of patches. Encoders that are not FineViT's see it so
    too, in as many pixels as their own processor would give it; one whose table of positions does not stretch sees it
    stretched to its only grid. Whichever it is, the patches cover the picture from edge to edge.

    Args:
        embedder: a loaded model.
        max_pixels: area above which pictures are scaled down; None keeps the processor's own.

    Raises:
        ValueError: the model gives no patch tokens, or sees pictures of one size and `max_pixels` is given.
    """

    def __init__(self, embedder: Embedder, max_pixels: int | None = None) -> None:
        self.embedder, self.model = embedder, embedder.model
        tower, own = vision_tower_of(self.model), embedder.image_processor
        self.merge_size = getattr(tower.config, "spatial_merge_size", 1)
        self.teacher = Teacher(tower, own, self.merge_size, name="the model")
        if isinstance(own, FineViTImageProcessing):
            self.image_processor = own
        else:
            self.image_processor = _of_any_aspect(embedder, self.teacher)
        if max_pixels is not None and self.teacher.fixed_grid:
            raise ValueError("the model sees every picture in one size; leave max_pixels out.")
        if max_pixels is not None:
            set_pixel_budget(self.image_processor, max_pixels=max_pixels)

    def prepare(self, picture: Image.Image) -> Mapping[str, torch.Tensor]:
        """An RGB picture as packed patches of bytes with their grid, on the CPU; several threads may do so at once.

        Raises:
            ValueError: it is too thin.
        """
        if self.teacher.fixed_grid:
            rows, columns = (side * self.teacher.patch_size for side in self.teacher.fixed_grid)
            picture = picture.resize((columns, rows), self.image_processor.resample)
        return self.image_processor.as_bytes([picture])

    def encode(self, prepared: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The features of what `prepare` gave, of one picture or of several one behind the other.

        Returns:
            `(R, C, D)` each, in the model's dtype, on the CPU: patch `[row, column]` is where the picture has it.
        """
        grid_thw = prepared["image_grid_thw"]
        features_TD = self.teacher(prepared["pixel_values"].to(self.model.device), grid_thw).cpu()
        lengths = grid_thw.prod(-1).tolist()
        return [
            _row_by_row(rows_TD, grid[1:], self.merge_size)
            for rows_TD, grid in zip(features_TD.split(lengths), grid_thw, strict=True)
        ]

    @property
    def pools_by_attention(self) -> bool:
        """Has it FineViT-Dual's pooling, whose weights can be looked at?"""
        return isinstance(getattr(self.model, "pooling", None), FineViTAttentionPooling)

    @torch.inference_mode()
    def attention(self, features_RCD: torch.Tensor) -> torch.Tensor:
        """How much the pooling looks at each patch, in units of an even share: `(R, C)` float32, of mean 1; the mean
        over heads and queries.
        """
        features_TD = features_RCD.flatten(0, 1).to(self.model.device)
        grid = torch.tensor([[1, *features_RCD.shape[:2]]], device=self.model.device)
        weights_T = self.model.pooling.attention_weights(features_TD, grid).mean((1, 2)) * len(features_TD)
        return weights_T.view(features_RCD.shape[:2]).cpu()

    @torch.inference_mode()
    def embedded(self, features_RCD: torch.Tensor) -> torch.Tensor:
        """Each patch in the space of texts, pooled as if it were a picture of one patch (as FineViT-Dual's regions).

        Returns:
            `(R, C, width of embeddings)` float32 of norm 1.

        Raises:
            ValueError: the model does not pool patches by attention, so that a patch by itself has no embedding.
        """
        features_TD = features_RCD.flatten(0, 1).to(self.model.device)
        if self.pools_by_attention:
            ones = torch.ones(len(features_TD), 3, dtype=torch.long, device=self.model.device)
            embeds_TD = self.model.pooling(features_TD, ones)
        elif callable(head := getattr(self.teacher.model, "head", None)):  # SigLIP's
            embeds_TD = head(features_TD[:, None])
        else:
            raise ValueError(
                f"{type(self.model).__name__} gives single patches no place among texts; a phrase needs a model that "
                "pools patches by attention, such as FineViT-Dual or SigLIP."
            )
        return normalize(embeds_TD.float(), dim=-1).view(*features_RCD.shape[:2], -1).cpu()

    def phrase(self, phrase: str) -> torch.Tensor:
        """A text in that space: `(width,)` float32 of norm 1.

        Raises:
            ValueError: the model reads no text.
        """
        return self.embedder.texts([phrase])[0].cpu()

    @property
    def facts(self) -> dict[str, Any]:
        """How pictures are prepared, in values of JSON."""
        processor = json.loads(self.image_processor.to_json_string())
        mean, std, factor = self.teacher.scaling
        facts = {name: processor[name] for name in PREPARATION}
        facts |= {"image_mean": mean, "image_std": std, "rescale_factor": factor}
        if self.teacher.fixed_grid:
            facts["stretched_to"] = list(self.teacher.fixed_grid)
        return facts


def _of_any_aspect(embedder: Embedder, teacher: Teacher) -> FineViTImageProcessorPil:
    """Pictures in their own aspect for a model whose processor gives them another; without merged blocks."""
    patch_size, size = teacher.patch_size, embedder.size
    if teacher.fixed_grid:
        area = teacher.fixed_grid[0] * teacher.fixed_grid[1] * patch_size**2
    elif "max_num_patches" in size:
        area = size["max_num_patches"] * patch_size**2
    else:
        side = size.get("shortest_edge") or size.get("longest_edge")
        area = size.get("height", side) * size.get("width", side)
    return FineViTImageProcessorPil(
        patch_size=patch_size,
        merge_size=1,
        size={"shortest_edge": min(area, 4 * patch_size**2), "longest_edge": area},
        resample=embedder.image_processor.resample,
    )


def _row_by_row(features_TD: torch.Tensor, sides: Sequence[int] | torch.Tensor, merge_size: int) -> torch.Tensor:
    """A picture's features out of merge order: `(R, C, D)`."""
    rows, columns = map(int, sides)
    row, column, _ = patch_positions(torch.tensor([[rows, columns]]), merge_size)
    plane_RCD = features_TD.new_empty(rows, columns, features_TD.shape[1])
    plane_RCD[row, column] = features_TD
    return plane_RCD
