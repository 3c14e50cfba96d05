"""What a figure was made with: command, commit, versions, machine, weights. For receipts, cards and benchmarks."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finecap.recipe_files import without_folders

# Of Transformers, in one file or in shards, and the projector beside a converted encoder.
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def made_with(packages: Iterable[str]) -> dict[str, Any]:
    """The part that all receipts share, in values of JSON.

    Args:
        packages: whose versions matter.

    Returns:
        date (UTC, ISO 8601), command, commit, versions, system, cpu and cores; threads and gpus too if this process
        has loaded torch.
    """
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": source_commit(),
        "versions": package_versions(packages),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
        found |= {"threads": torch.get_num_threads(), "gpus": gpus}
    return found


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file of a model folder, by file name.

    Raises:
        ValueError: there are no weight files.
    """
    paths = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    if not paths:
        raise ValueError(
            f"{folder} holds no weights ({' or '.join(WEIGHT_FILES)}); give a folder that save_pretrained wrote"
        )
    hashes = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's version and those of installed packages; None for what is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def source_commit(file: Path = Path(__file__)) -> str | None:
    """The commit of the checkout that `file` is tracked in, with "+changes" if tracked files differ from it.

    Args:
        file: by default of this package.

    Returns:
        None for an installed copy, also for one that lies in somebody else's repository.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_name() -> str:
    """The processor as its maker calls it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_line() -> str:
    """The command that started this process, as one would type it, without the tokens that it held and of a path on
    this machine its last part alone.
    """
    try:
        words = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        words = list(sys.argv)
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--"):
            words[at] = f"{flag}={'[token]' if _names_a_token(flag) else without_folders(value)}"
        else:
            words[at] = "[token]" if at and _names_a_token(words[at - 1]) else without_folders(word)
    return shlex.join(words)


def _names_a_token(flag: str) -> bool:
    return flag.startswith("--") and flag.replace("-", "_").endswith("_token")
