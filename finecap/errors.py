"""How a run ends early: errors that would come again, told apart from a shard that failed."""

from __future__ import annotations


class StopRun(ValueError):
    """The whole run cannot go on (wrong key, unknown model, spent budget, full disk); the message says what to do.

    Nothing is lost: finished shards are files and paid answers are in their journals, so the same command goes on.
    """
