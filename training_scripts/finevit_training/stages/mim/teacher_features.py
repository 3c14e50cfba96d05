"""A teacher's features during a training, which may be kept on disk.

A picture's file is named by the bytes that the teacher sees, so it is found again whatever the picture is called.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from finecap.files import committed
from modeling_finevit.pretraining.teacher import Teacher

TEACHER_FILE = "teacher.json"


class FeatureCache:
    """Features on disk, as float16. A folder holds those of one teacher; a killed process leaves no broken file.

    Args:
        folder: made if it is not there.
        fingerprint: of the teacher.

    Raises:
        ValueError: the folder is another teacher's, or something else.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"teacher_cache {folder} is a file; give a folder, which is made if it is not there")
        mine, described = {"teacher_sha256": fingerprint}, folder / TEACHER_FILE
        if not described.exists():
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"teacher_cache {folder} holds something else (no {TEACHER_FILE}); give a new folder")
            with committed(described, tag=str(os.getpid())) as aside:
                aside.write_text(json.dumps(mine))
        if described.read_text() != json.dumps(mine):
            raise ValueError(
                f"teacher_cache {folder} holds the features of another teacher (other weights, another config, or "
                "another scaling of its input); give a new folder, or delete this one"
            )

    def path(self, patches: torch.Tensor, rows: int, columns: int) -> Path:
        """Of a picture's features, by the bytes of its patches (on the CPU) and its grid."""
        digest = hashlib.sha256(f"{rows}x{columns}".encode())
        digest.update(patches.contiguous().numpy())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def read(self, path: Path, patches: int) -> torch.Tensor | None:
        """Features (patches, D) float16; None if they are not there.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            features = np.load(path)
            if features.shape[:-1] != (patches,) or features.dtype != np.float16:
                raise ValueError(f"it holds {features.dtype} {features.shape}, expected float16 of {patches} patches")
        except FileNotFoundError:
            return None
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} in teacher_cache is damaged ({error}); delete it and start again") from error
        return torch.from_numpy(features)

    def write(self, path: Path, features: torch.Tensor) -> None:
        """Keeps features (patches, D) float16."""
        with committed(path, tag=str(os.getpid())) as aside, aside.open("wb") as file:
            np.save(file, features.numpy())


class TeacherFeatures:
    """What the student regresses: a teacher's features, those of a cache among them.

    With a cache all features are float16's, those that are read and those that are new, so that a run which goes on
    has the same targets as one that was never stopped.
    """

    def __init__(self, teacher: Teacher, cache: FeatureCache | None = None) -> None:
        self.teacher = teacher
        self.cache = cache

    def __call__(self, patches: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """See `Teacher`."""
        return self._cached(patches, image_grid_thw) if self.cache else self.teacher(patches, image_grid_thw)

    def _cached(self, patches: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        cache, grid_thw = self.cache, image_grid_thw.cpu()
        assert cache is not None
        parts = patches.cpu().split(grid_thw.prod(-1).tolist())
        paths = [cache.path(part, r, c) for part, (_, r, c) in zip(parts, grid_thw.tolist(), strict=True)]
        found = [cache.read(path, len(part)) for path, part in zip(paths, parts, strict=True)]
        missing = [number for number, features in enumerate(found) if features is None]
        if missing:
            new = self.teacher(torch.cat([parts[number] for number in missing]).to(patches.device), grid_thw[missing])
            new = new.to("cpu", torch.float16)
            if not new.isfinite().all():
                raise ValueError("the teacher's features are too large for float16; leave teacher_cache out")
            for number, features in zip(missing, new.split(grid_thw[missing].prod(-1).tolist()), strict=True):
                cache.write(paths[number], features)
                found[number] = features
        return torch.cat([features for features in found if features is not None]).to(patches.device)
