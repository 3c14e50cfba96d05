"""What a figure was made with: the commit is that of this checkout only, the weights follow every change."""

import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import finecap.made_with
from finecap.made_with import cpu_name, made_with, package_versions, source_commit, weight_hashes


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "module.py").write_text("one = 1\n")
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_versions_are_those_installed_and_none_for_what_is_not():
    found = package_versions(["pillow", "no-such-package-of-ours"])
    assert (found["pillow"], found["no-such-package-of-ours"]) == (version("pillow"), None)
    assert found["python"]


def test_the_commit_is_that_of_the_checkout_and_says_if_files_differ_from_it(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert source_commit(repository / "module.py") == head
    (repository / "module.py").write_text("one = 2\n")
    assert source_commit(repository / "module.py") == f"{head}+changes"


def test_a_copy_installed_below_another_repository_has_no_commit(repository):
    installed = repository / ".venv" / "versions.py"
    installed.parent.mkdir()
    shutil.copy(finecap.made_with.__file__, installed)
    assert source_commit(installed) is None
    assert source_commit(repository.parent / "versions.py") is None


def test_the_processor_has_a_name():
    assert cpu_name()


def test_receipts_begin_alike_and_are_json():
    found = made_with(["pillow"])
    assert {"date", "command", "commit", "versions", "system", "cpu", "cores"} <= set(json.loads(json.dumps(found)))
    assert found["cores"] >= 1
    assert found["command"]


def test_the_weights_follow_every_change_of_them_and_nothing_else(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    before = weight_hashes(tmp_path)
    assert list(before) == ["model.safetensors"]
    (tmp_path / "README.md").write_text("a card")
    assert weight_hashes(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"weighty")
    assert weight_hashes(tmp_path) != before


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        weight_hashes(tmp_path)
