"""Rows of the data to pictures that are partly masked, for stage I; words are not read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from finecap.sources.rows import Row, Size
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.batch import MaskedBatch
from finevit_training.data.order import RowKey
from finevit_training.examples.decoding import decoded, num_patches, patches_of_bytes, size_facts
from modeling_finevit.patches import pack_images
from modeling_finevit.pretraining.masks import draw_mask


@dataclass
class Draft:
    """The pictures of a row, not decoded yet.

    Attributes:
        id: of the row.
        epoch, copy: the pass over the data, and the how-manieth time that the row comes in it.
        sizes: width and height of each picture.
        patches: of all pictures.
        left_out: nothing.
    """

    id: str
    epoch: int
    copy: int
    sizes: list[Size]
    patches: int
    left_out: list[str]

    def __len__(self) -> int:
        return self.patches


class Example(NamedTuple):
    """The pictures of a row, upright RGB."""

    draft: Draft
    images: list[Image.Image]


@dataclass
class MaskedPictures:
    """Makes the examples that stage I is trained on. Pictures are neither cropped nor flipped: the paper is silent.

    Args:
        image_processor: of the student.
        max_patches: patches of a row of the loader; a sample with more is not used.
        mask_ratio, mask: share of each picture's patches and how they are drawn, see `draw_mask`.
        seed: the run's seed; the masks of a row follow from (seed, epoch, copy, id).
        teacher_patch_size: of a teacher, which sees each picture at a size that gives it the student's grid.
    """

    remedy: ClassVar[str] = ": every row needs pictures that fit max_patches"

    image_processor: Any
    max_patches: int
    mask_ratio: float
    mask: str = "random"
    seed: int = 0
    teacher_patch_size: int | None = None

    def facts(self) -> dict[str, Any]:
        """Everything that decides the drafts of given rows, in values of JSON."""
        return {"max_patches": self.max_patches, "image_sizes": size_facts(self.image_processor)}

    @property
    def has_second_view(self) -> bool:
        """Whether the teacher sees other pixels than the student."""
        return self.teacher_patch_size not in (None, self.image_processor.patch_size)

    def draft(self, row: Row, key: RowKey, fraction: float) -> Draft:
        """The pictures of a row; how far the training is changes nothing.

        Raises:
            UnusableRecord: there are none, or they have too many patches.
        """
        if not row.sizes:
            raise UnusableRecord("no picture in it", is_bad=False)
        patches = sum(num_patches(self.image_processor, size) for size in row.sizes)
        if patches > self.max_patches:
            raise UnusableRecord(
                f"its pictures do not fit: {patches} patches, max_patches {self.max_patches}; give a smaller "
                "max_pixels or a larger max_patches",
                is_bad=False,
            )
        return Draft(row.id, key.epoch, key.copy, row.sizes, patches, [])

    def example(self, draft: Draft, pictures: Sequence[bytes]) -> Example:
        """Decodes the pictures of a row; whole where the teacher sees them larger than the student.

        Raises:
            UnusableRecord: one of them cannot be decoded, or has another size than the row says.
        """
        reduced = not self.has_second_view
        pairs = zip(pictures, draft.sizes, strict=True)
        return Example(draft, [decoded(self.image_processor, data, size, reduced) for data, size in pairs])

    def collate(self, rows: Sequence[Sequence[Example]]) -> MaskedBatch:
        """The batch of some rows, each at most `max_patches` patches; of none the least blank picture that can be,
        which reaches every weight and counts for nothing.
        """
        examples = [example for row in rows for example in row]
        images = [image for example in examples for image in example.images]
        drafts = [example.draft for example in examples for _ in example.images]
        side = self.image_processor.patch_size * self.image_processor.merge_size
        seen = images or [Image.new("RGB", (side, side))]
        pixels = patches_of_bytes(self.image_processor, seen)
        grid = pixels["image_grid_thw"]
        sizes = iter(grid[:, 1:].tolist())
        masks = [mask for example in examples for mask in self._masks(example, sizes)]
        nothing = np.zeros(int(grid[0].prod()), dtype=bool)
        return {
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": grid,
            "bool_masked_pos": torch.from_numpy(np.concatenate(masks or [nothing])),
            "teacher_pixel_values": self._second_view(seen, grid) if self.has_second_view else None,
            "lengths": grid.prod(-1)[: len(images)],
            "ids": [draft.id for draft in drafts],
            "epochs": [draft.epoch for draft in drafts],
        }

    def _masks(self, example: Example, sizes: Any) -> list[np.ndarray]:
        """The masks of a row's pictures, whose rows and columns of patches come next in `sizes`."""
        draft = example.draft
        digest = hashlib.sha256(f"{self.seed}/{draft.epoch}/{draft.copy}/{draft.id}".encode()).digest()
        rng, merge_size = np.random.default_rng(int.from_bytes(digest, "big")), self.image_processor.merge_size
        return [draw_mask(*next(sizes), self.mask_ratio, rng, self.mask, merge_size) for _ in example.images]

    def _second_view(self, images: Sequence[Image.Image], grid: torch.Tensor) -> torch.Tensor:
        """Patches of the teacher's size, in the student's grids and order."""
        side = int(self.teacher_patch_size or 0)
        views = []
        for image, (_, rows, columns) in zip(images, grid.tolist(), strict=True):
            seen = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None]
            views.append(pack_images(pixels, side, self.image_processor.merge_size)[0])
        return torch.cat(views)
