"""A teacher's features during a training: how long they take, and those that are kept on disk.

A picture's file is named by the bytes that the teacher sees, so it is found again whatever the picture is called.
"""

import hashlib
import json
import os
import time
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
        mine, described = {"teacher_sha256": fingerprint}, folder / TEACHER_FILE
        if not described.exists():
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"teacher_cache {folder} holds something else (no {TEACHER_FILE}); give a new folder")
            with committed(described, tag=str(os.getpid())) as aside:
                aside.write_text(json.dumps(mine))
        if json.loads(described.read_text()) != mine:
            raise ValueError(
                f"teacher_cache {folder} holds the features of another teacher (other weights, or another scaling of "
                "its input); give a new folder, or delete this one"
            )

    def path(self, patches: torch.Tensor, rows: int, columns: int) -> Path:
        """Of a picture's features, by the bytes of its patches (on the CPU) and its grid."""
        digest = hashlib.sha256(f"{rows}x{columns}".encode())
        digest.update(patches.contiguous().numpy())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def read(self, path: Path) -> torch.Tensor | None:
        """Features (patches, D) float16; None if they are not there.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return torch.from_numpy(np.load(path))
        except FileNotFoundError:
            return None
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} in teacher_cache is damaged ({error}); delete it and start again") from error

    def write(self, path: Path, features: torch.Tensor) -> None:
        """Keeps features (patches, D) float16."""
        with committed(path, tag=str(os.getpid())) as aside, aside.open("wb") as file:
            np.save(file, features.numpy())


class TeacherFeatures:
    """What the student regresses: a teacher's features, and how long they took.

    With a cache all features are float16's, those that are read and those that are new, so that a run which goes on
    has the same targets as one that was never stopped.
    """

    def __init__(self, teacher: Teacher, cache: FeatureCache | None = None) -> None:
        self.teacher = teacher
        self.cache = cache
        self._seconds = 0.0
        self._events: list[tuple[torch.Event, torch.Event]] = []  # on an accelerator, which is not waited for

    def __call__(self, patches: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """See `Teacher`."""
        features_of = self._cached if self.cache else self.teacher
        if patches.device.type == "cpu":
            start = time.perf_counter()
            features = features_of(patches, image_grid_thw)
            self._seconds += time.perf_counter() - start
            return features
        events = torch.Event(patches.device, enable_timing=True), torch.Event(patches.device, enable_timing=True)
        events[0].record()
        features = features_of(patches, image_grid_thw)
        events[1].record()
        self._events.append(events)
        return features

    def seconds(self) -> float:
        """What all calls until now took together; waits for them."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds

    def _cached(self, patches: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        cache, grid_thw = self.cache, image_grid_thw.cpu()
        assert cache is not None
        parts = patches.cpu().split(grid_thw.prod(-1).tolist())
        paths = [cache.path(part, r, c) for part, (_, r, c) in zip(parts, grid_thw.tolist(), strict=True)]
        found = [cache.read(path) for path in paths]
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
