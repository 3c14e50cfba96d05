"""How a run ends early: errors that trying again cannot mend, told apart from a shard that failed."""

from __future__ import annotations


class StopRun(ValueError):
    """The whole run cannot go on (wrong key, unknown model, spent budget, full disk); the message says how to mend it.

    Nothing is lost: finished shards are files and paid answers are in their journals, so the same command goes on.
    """
