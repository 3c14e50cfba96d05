"""The process that trains: what it reports to others, the memory of its kernels, and its threads."""

import os
import shlex
from pathlib import Path

import torch

from finevit_training.compat import stop_hub_telemetry

# oneDNN keeps 1,024 generated kernels with their buffers by default; ragged batches fill them: 9 GB in ten minutes.
_ONEDNN_KERNELS = "128"
_THREADS_FLAG = "num_cpu_threads_per_process"
_TOKEN_FLAG = "__hub_token"  # with its dashes as underscores: both spellings are flags


def prepare_process(cpu_threads: int | None = None) -> None:
    """Sets up this process for training, however it was started: by a launcher, with `-m`, or from a notebook.

    Nothing is reported to anybody unless `report_to` says so, oneDNN's cache is bounded (no effect where oneDNN ran
    before), and the threads are set, see `threads_for_training`.
    """
    stop_hub_telemetry()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _ONEDNN_KERNELS)
    torch.set_num_threads(cpu_threads or threads_for_training())


def threads_for_training() -> int:
    """CPU threads of this process: what the user set, else its share of the cores that it may use.

    `accelerate launch` sets OMP_NUM_THREADS to 1 where neither the user's environment nor a flag says otherwise. Such
    a 1 does not count; the environment and the flags that the launcher itself was started with do (read from /proc,
    so on Linux; elsewhere a 1 under accelerate counts as accelerate's, and the recipe's `cpu_threads` wins over it).
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0 and not _is_set_by_accelerate(given):
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _is_set_by_accelerate(threads: str) -> bool:
    if threads != "1" or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return False
    launcher = Path("/proc") / str(os.getppid())
    try:
        environment = (launcher / "environ").read_bytes().decode(errors="replace").split("\0")
        command = (launcher / "cmdline").read_bytes().decode(errors="replace").replace("-", "_")
    except OSError:
        return True
    return _THREADS_FLAG not in command and not any(entry.startswith("OMP_NUM_THREADS=") for entry in environment)


def command_line() -> str:
    """The command that started this process, as one would type it, without a token that it held."""
    try:
        words = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        import sys

        words = sys.argv
    for at, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if flag.replace("-", "_") == _TOKEN_FLAG and equals:
            words[at] = f"{flag}=[token]"
        elif at and words[at - 1].replace("-", "_") == _TOKEN_FLAG:
            words[at] = "[token]"
    return shlex.join(words)
