"""Trainings of a checkout as processes of their own, with the command that a user types."""

import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch

from finecap.made_with import usable_cores

REPOSITORY = Path(__file__).resolve().parents[1]
WATCH = """
import os, psutil, signal, sys
sys.stdin.read()
for process in psutil.process_iter():
    try:
        if os.getpgid(process.pid) == os.getpgrp():
            for child in process.children(recursive=True):
                child.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass
os.killpg(0, signal.SIGKILL)
"""


def cpu_processes() -> int:
    """Into how many processes a small model's training is divided here. On a CPU its step is small: two processes of
    one thread each are faster than one of two threads.
    """
    return 1 if torch.accelerator.is_available() else min(2, usable_cores())


def launch(script: Path, flags: Sequence[str], processes: int) -> None:
    """Runs a script of `training_scripts` to its end; it ends with this process, however that is killed.

    Raises:
        RuntimeError: it failed.
    """
    with ending_with_us() as group:
        status = start(script, flags, processes, group).wait()
    if status:
        raise RuntimeError(f"training ended with status {status}: {script} {' '.join(flags)}")


def start(
    script: Path, flags: Sequence[str], processes: int, group: int, log: TextIO | None = None
) -> subprocess.Popen[bytes]:
    """Starts a script of `training_scripts`.

    Args:
        group: of processes, see `ending_with_us`.
        log: where its output goes; ours without it.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(script), *flags]
    # glibc would hand every activation back to the kernel and fetch it again: a fifth of a step on small models.
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    settings["OMP_NUM_THREADS"] = str(usable_cores() // processes)
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | settings, process_group=group, stdout=log, stderr=log
    )


@contextmanager
def ending_with_us() -> Generator[int]:
    """A group of processes that is killed when this block ends or this process does, however it is killed.

    A launcher's own children would outlive it otherwise; torchrun gives them sessions of their own, so they are looked
    for. The group's first process holds the end of a pipe that closes with this one.

    Returns:
        The group's id, for `Popen(process_group=)`.
    """
    with subprocess.Popen([sys.executable, "-c", WATCH], stdin=subprocess.PIPE, process_group=0) as watcher:
        yield watcher.pid
