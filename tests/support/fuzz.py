"""Property and fuzz tests with fresh examples until the time is up: `python -m tests.support.fuzz MINUTES`.

The first failure ends it. Hypothesis prints the example and the line that repeats it; other fuzz
tests print their seed. A find becomes an `@example` or a test of its own, then the cause is mended.
"""

import os
import random
import subprocess
import sys
import time

CASES = 20_000


def run(minutes: float) -> int:
    """Rounds of tests, each with another seed, until the time is up or a test fails; returns its exit status."""
    until, rounds = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        seed = random.SystemRandom().randrange(2**32)
        print(f"round {rounds + 1}, seed {seed}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "--dist", "worksteal", "-m", "fuzz"]
        drawn = {"HYPOTHESIS_PROFILE": "fuzz", "FINEVIT_FUZZ_SEED": str(seed), "FINEVIT_FUZZ_CASES": str(CASES)}
        status = subprocess.run(
            [*command, f"--hypothesis-seed={seed}"], env=os.environ | drawn, check=False
        ).returncode
        if status:
            return status
        rounds += 1
    print(f"{rounds} rounds found nothing")
    return 0


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1])))
