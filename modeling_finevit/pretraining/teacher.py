# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""A frozen teacher for Stage I: any model of transformers that gives one vector per patch, called on packed patches.

The teacher sees each picture resized so that its grid of patches is the student's: 18 x 18 patches are 252 pixels for
a FineViT of patch 14 and 288 for a teacher of patch 16, as in the paper.

Shape suffixes: T packed patches of all pictures, B pictures of one grid, L their patches, P bytes of a patch, D width.
"""

import hashlib
import json
from inspect import signature
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, PreTrainedModel

from ..image_processing_pil_finevit import scaling_of
from ..patches import patch_index, scale_patches

EXPECTED = "expected a vision transformer with square patches, such as DINOv3, DINOv2, SigLIP 2, TIPSv2 or a FineViT"
# In units of the merge size. Neither is square and they are not alike, so that only tokens of patches fit both.
PROBED_GRIDS = ((2, 3), (3, 5))
WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures")
PAINTED = 16
"""Most patches that are changed, each in a picture of its own, to see whose tokens they are."""


class Teacher:
    """Features of a frozen model for packed patches, in the student's merge order.

    It is no `nn.Module`, so that a student which holds it never saves it.

    Args:
        model: gives `last_hidden_state` with one vector per patch, row by row, behind any class and register tokens;
            of a model with several towers it is the vision tower. It is frozen in place.
        image_processor: the teacher's own; says how bytes become its input.
        merge_size: of the student, whose blocks its patches come in.
        name: what errors call it.

    Raises:
        ValueError: the model gives no patch tokens, or a FineViT has another merge size.

    Attributes:
        patch_size: side of a patch in pixels.
        hidden_size: width of the features.
        fixed_grid: the only rows and columns of patches that it takes, or None if it takes any.
    """

    def __init__(
        self, model: PreTrainedModel, image_processor: Any, merge_size: int = 2, name: str = "teacher"
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.merge_size = merge_size
        self.scaling = scaling_of(vars(image_processor))
        self._arguments = frozenset(signature(model.forward).parameters)
        self.patch_size = self._square("patch_size")
        if "pixel_values" not in self._arguments:
            raise self._without_patches("it takes no pixel_values")
        own_merge_size = getattr(model.config, "spatial_merge_size", merge_size)
        if own_merge_size != merge_size:
            raise ValueError(
                f"{name} has patches in blocks of {own_merge_size} and the student in blocks of {merge_size}, so "
                "their grids cannot match; take a teacher of the same spatial_merge_size."
            )
        self._prefix, self.hidden_size, self.fixed_grid = self._probed()

    @classmethod
    def from_pretrained(cls, name_or_path: str, merge_size: int = 2, **kwargs: Any) -> "Teacher":
        """The vision tower of a model folder or Hub id that AutoModel loads, with the scaling of its image processor.

        Args:
            kwargs: for `AutoModel.from_pretrained`, such as `dtype`.

        Raises:
            ValueError: there is no such model, it lacks weights that its features need or has no image processor, or
                see the class.
        """
        try:
            image_processor = AutoImageProcessor.from_pretrained(name_or_path)
            model, loading = AutoModel.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the teacher {name_or_path!r} cannot be loaded: {str(error).rstrip('. ')}. Give a folder or Hub id "
                "with a config, weights and an image processor (its mean and standard deviation are what the teacher "
                "must see)."
            ) from error
        teacher = cls(vision_tower_of(model), image_processor, merge_size, name=f"the teacher {name_or_path!r}")
        weights = dict(model.named_parameters())
        teacher._refuse_random({name: weights[name] for name in sorted(loading["missing_keys"]) if name in weights})
        return teacher

    def to(self, device: torch.device | str) -> "Teacher":
        """Moves the model."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the weights, of the config and of how bytes are scaled: of all that decides the features."""
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in WITHOUT_EFFECT}
        digest = hashlib.sha256(f"{type(self.model).__name__} {self.scaling}".encode())
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, patches_TP: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """The features of some pictures; those of one grid are seen in one batch.

        Args:
            patches_TP (`torch.ByteTensor` of shape `(sum_patches, 3 * patch_size²)`): pictures of
                `rows * patch_size` x `columns * patch_size` pixels, cut into patches of this teacher's size, in merge
                order, on the teacher's device.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): the student's. Leave it on the CPU.

        Returns:
            `torch.Tensor` of shape `(sum_patches, hidden_size)` in merge order.

        Raises:
            ValueError: a grid is not the one that a teacher with a fixed table of positions takes.
        """
        grid_thw = image_grid_thw.cpu()
        pixels_TP = scale_patches(patches_TP, *self.scaling).to(self.model.dtype)
        if "image_grid_thw" in self._arguments:
            return self.model(pixel_values=pixels_TP, image_grid_thw=grid_thw).last_hidden_state
        features_TD = pixels_TP.new_empty(len(pixels_TP), self.hidden_size)
        lengths = grid_thw.prod(-1)
        starts = lengths.cumsum(0) - lengths
        for frames, rows, columns in grid_thw.unique(dim=0).tolist():
            self._check_grid(rows, columns)
            alike = (grid_thw == torch.tensor([frames, rows, columns])).all(-1)
            index_BL = (starts[alike, None] + torch.arange(rows * columns)).to(pixels_TP.device)
            index_BL = index_BL[:, self._row_by_row(rows, columns).to(pixels_TP.device)]
            tokens_BLD = self._tokens(pixels_TP[index_BL], rows, columns)
            features_TD[index_BL] = tokens_BLD[:, self._prefix :].to(features_TD.dtype)
        return features_TD

    def _tokens(self, pixels_BLP: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """All tokens of pictures whose patches come row by row."""
        batch = len(pixels_BLP)
        size = self.patch_size
        patches = pixels_BLP.view(batch, rows, columns, -1, size, size)
        if "spatial_shapes" in self._arguments:  # SigLIP 2, whose patches have the channels last
            return self.model(
                pixel_values=patches.permute(0, 1, 2, 4, 5, 3).reshape(batch, rows * columns, -1),
                pixel_attention_mask=torch.ones(batch, rows * columns, dtype=torch.int32, device=pixels_BLP.device),
                spatial_shapes=torch.tensor([[rows, columns]] * batch, device=pixels_BLP.device),
            ).last_hidden_state
        pictures = patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, rows * size, columns * size)
        more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in self._arguments else {}
        return self.model(pixel_values=pictures, **more).last_hidden_state

    def _row_by_row(self, rows: int, columns: int) -> torch.Tensor:
        """Where in merge order the patches lie that come row by row."""
        row, column = torch.arange(rows)[:, None], torch.arange(columns)
        return patch_index(row, column, torch.tensor(columns), self.merge_size).flatten()

    def _probed(self) -> tuple[int, int, tuple[int, int] | None]:
        """Tokens before those of the patches, the width, and the only grid if there is one; found by asking."""
        if "image_grid_thw" in self._arguments:
            return 0, self.model.config.hidden_size, None
        grids = [(rows * self.merge_size, columns * self.merge_size) for rows, columns in PROBED_GRIDS]
        fixed_grid = None
        try:
            shapes = [self._probe(*grid) for grid in grids]
        except (ValueError, RuntimeError):  # what models raise whose table of positions has one size
            side = self._square("image_size") // self.patch_size
            fixed_grid, grids = (side, side), [(side, side)]
            try:
                shapes = [self._probe(*fixed_grid)]
            except (ValueError, RuntimeError) as error:
                raise self._without_patches(f"on an empty picture it raises {error}") from error
        before = {shape[1] - rows * columns for shape, (rows, columns) in zip(shapes, grids, strict=True)}
        if len(shapes[0]) != 3 or len(before) != 1 or min(before) < 0:
            seen = ", ".join(
                f"{tuple(shape)} for {r}x{c} patches" for shape, (r, c) in zip(shapes, grids, strict=True)
            )
            raise self._without_patches(f"its last_hidden_state has shape {seen}")
        self._check_order(*grids[-1], min(before))
        return min(before), shapes[0][2], fixed_grid

    @torch.no_grad()
    def _check_order(self, rows: int, columns: int, before: int) -> None:
        """Paints one patch of each of several pictures: of most, that patch's own token must change the most.

        Tokens behind the patches, patches in another order and a batch that comes as one sequence would all be taken
        for features of other patches.
        """
        count = rows * columns
        painted = torch.arange(0, count, -(-count // PAINTED), device=self.model.device)
        pixels = torch.zeros(len(painted) + 1, count, 3 * self.patch_size**2, device=self.model.device)
        noise = torch.randn(pixels.shape[2], generator=torch.Generator().manual_seed(0))
        pixels[torch.arange(len(painted)), painted] = noise.to(pixels.device)
        tokens = self._tokens(pixels.to(self.model.dtype), rows, columns).float()
        if len(tokens) != len(pixels):
            raise self._without_patches(f"of {len(pixels)} pictures it makes a batch of {len(tokens)}")
        moved = (tokens[:-1] - tokens[-1]).norm(dim=-1).argmax(dim=-1) - before
        if (right := int((moved == painted).sum())) <= len(painted) / 2:
            raise self._without_patches(
                f"where a patch is changed, its own token changes the most in {right} of {len(painted)} pictures"
            )

    @torch.no_grad()
    def _probe(self, rows: int, columns: int) -> torch.Size:
        shape = (1, rows * columns, 3 * self.patch_size**2)
        zeros = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)
        return self._tokens(zeros, rows, columns).shape

    @torch.enable_grad()
    def _refuse_random(self, weights: dict[str, torch.nn.Parameter]) -> None:
        """Raises ValueError if the features of patches depend on one of some weights, which transformers has drawn.

        They depend neither on a pooling head nor on a mask token nor on another tower; a backward pass tells.
        """
        if not weights:
            return
        for weight in weights.values():
            weight.requires_grad_(True)
        rows, columns = self.fixed_grid or (2 * self.merge_size, 2 * self.merge_size)
        shape = (1, rows * columns, 3 * self.patch_size**2)
        pixels = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device, requires_grad=True)
        if "image_grid_thw" in self._arguments:
            grid_thw = torch.tensor([[1, rows, columns]])
            features = self.model(pixel_values=pixels[0], image_grid_thw=grid_thw).last_hidden_state
        else:
            features = self._tokens(pixels, rows, columns)[:, self._prefix :]
        gradients = torch.autograd.grad(features.sum(), list(weights.values()), allow_unused=True)
        for weight in weights.values():
            weight.requires_grad_(False)
        needed = [name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None]
        if needed:
            raise ValueError(
                f"{self.name} lacks weights that its features need, and random ones would take their place: "
                f"{', '.join(needed[:5])}{f' and {len(needed) - 5} others' if len(needed) > 5 else ''}; give a folder "
                "that holds them."
            )

    def _check_grid(self, rows: int, columns: int) -> None:
        if self.fixed_grid not in (None, (rows, columns)):
            raise ValueError(
                f"{self.name} has a fixed table of positions for {self.fixed_grid[0]}x{self.fixed_grid[1]} patches, "
                f"which it cannot interpolate, and a picture has {rows}x{columns} patches; take pictures of that "
                "grid, or a teacher for any size."
            )

    def _square(self, field: str) -> int:
        """A side that the config gives as a number or as height and width."""
        value = getattr(self.model.config, field, None)
        sides = {value} if isinstance(value, int) else set(value or ())
        if len(sides) != 1 or not isinstance(side := sides.pop(), int):
            raise self._without_patches(f"its config has {field}={value}")
        return side

    def _without_patches(self, reason: str) -> ValueError:
        return ValueError(f"{self.name}, a {type(self.model).__name__}, gives no patch tokens: {reason}; {EXPECTED}.")


def vision_tower_of(model: PreTrainedModel) -> PreTrainedModel:
    """The tower that sees of a model with several; a bare encoder is its own."""
    towers = (getattr(model, name, None) for name in ("vision_model", "vision_tower"))
    return next((one for one in towers if one is not None), model)


__all__ = ["Teacher", "vision_tower_of"]
