"""Features on disk: those of the teacher, found by what it sees, and never another's."""

import shutil

import numpy as np
import pytest
import torch

from finevit_training.stages.mim.teacher_features import FeatureCache, TeacherFeatures
from modeling_finevit.pretraining.teacher import Teacher
from tests.support.tiny_teachers import scaling, tiny_teacher

GRID = torch.tensor([[1, 4, 6], [1, 6, 4], [1, 2, 2]])


@pytest.fixture
def teacher():
    return Teacher(tiny_teacher("dinov2"), scaling())


@pytest.fixture
def patches():
    return torch.randint(0, 256, (52, 588), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def cached(teacher, folder):
    return TeacherFeatures(teacher, FeatureCache(folder, teacher.fingerprint()))


def refuse_calls(*args):
    raise AssertionError("the teacher is asked")


def test_features_are_computed_once_and_read_to_the_bit_in_any_company(teacher, patches, tmp_path, monkeypatch):
    first = cached(teacher, tmp_path / "cache")(patches, GRID)
    assert first.dtype is torch.float16
    torch.testing.assert_close(first, teacher(patches, GRID).half(), rtol=1e-3, atol=1e-3)
    again = cached(teacher, tmp_path / "cache")
    monkeypatch.setattr(Teacher, "__call__", refuse_calls)
    assert torch.equal(again(patches, GRID), first)
    assert torch.equal(again(patches[24:], GRID[1:]), first[24:])


def test_only_what_is_missing_is_computed(teacher, patches, tmp_path):
    features = cached(teacher, tmp_path / "cache")
    features(patches[:24], GRID[:1])
    asked = []
    ask, teacher_call = features.teacher, Teacher.__call__
    features.teacher = lambda new, grid: asked.append(grid.tolist()) or teacher_call(ask, new, grid)
    whole = features(patches, GRID)
    assert asked == [GRID[1:].tolist()]
    torch.testing.assert_close(whole, teacher(patches, GRID).half(), rtol=1e-3, atol=1e-3)


def test_other_pixels_and_another_grid_of_the_same_bytes_are_other_pictures(teacher, patches, tmp_path):
    features = cached(teacher, tmp_path / "cache")
    first = features(patches[:24], GRID[:1])
    turned = features(patches[:24], GRID[1:2])
    brighter = features(patches[:24] // 2 + 100, GRID[:1])
    assert not torch.allclose(first, turned, atol=1e-2)
    assert not torch.allclose(first, brighter, atol=1e-2)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3


def test_a_cache_of_another_teacher_is_refused(teacher, patches, tmp_path):
    cached(teacher, tmp_path / "cache")(patches, GRID)
    for other in (
        Teacher(tiny_teacher("dinov2"), scaling(do_normalize=False)),
        Teacher(tiny_teacher("clip"), scaling()),
        Teacher(tiny_teacher("dinov2", layer_norm_eps=0.1), scaling()),  # the same weights
    ):
        with pytest.raises(ValueError, match=r"features of another teacher.*give a new folder"):
            cached(other, tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("something else")
    with pytest.raises(ValueError, match="holds something else"):
        cached(teacher, tmp_path / "mine")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        cached(teacher, tmp_path / "mine" / "notes.txt")


def test_what_a_killed_process_left_is_computed_again_and_a_damaged_file_is_named(teacher, patches, tmp_path):
    features = cached(teacher, tmp_path / "cache")
    whole = features(patches, GRID)
    path = sorted((tmp_path / "cache").rglob("*.npy"))[0]
    shutil.move(path, path.with_name(f".{path.name}123.tmp"))  # killed before it was renamed
    assert torch.equal(cached(teacher, tmp_path / "cache")(patches, GRID), whole)
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match=r"is damaged \(it holds float16 .*expected float16"):
        features(patches, GRID)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} in teacher_cache is damaged"):
        features(patches, GRID)
