"""Threads of a process that `accelerate launch` started."""

import sys

import pytest

from tests.finevit_training.test_process import CORES, SAY, threads

ACCELERATE = ["-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1", "--mixed_precision", "no"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the launcher's environment from /proc")
def test_the_one_thread_that_accelerate_sets_by_itself_does_not_count_and_the_users_does(tmp_path):
    script = tmp_path / "say.py"
    script.write_text(SAY)
    assert threads([*ACCELERATE, str(script)]) == CORES
    assert threads([*ACCELERATE, str(script)], OMP_NUM_THREADS="1") == 1
    assert threads([*ACCELERATE, "--num_cpu_threads_per_process", "1", str(script)]) == 1
