"""Trainings do not outlive who launched them."""

import subprocess
import sys
import time

import psutil


def test_who_is_killed_takes_the_training_and_what_it_started_along():
    """A child of a child in a session of its own, as a script is torchrun's; without the group it goes on."""
    sleep = "import time; time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    for group, outlives in (("group", False), ("None", True)):
        code = (
            "import subprocess, sys, time\n"
            "from finevit.launching import ending_with_us\n"
            "with ending_with_us() as group:\n"
            f"    subprocess.Popen([sys.executable, '-c', {child!r}], process_group={group})\n"
            "    print('started', flush=True)\n"
            "    time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            while len(started := psutil.Process(process.pid).children(recursive=True)) < 3:
                time.sleep(0.1)
            process.kill()
        _, alive = psutil.wait_procs(started, timeout=5)
        for left in alive:
            left.kill()
        assert bool(alive) == outlives
