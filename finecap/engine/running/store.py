"""The run's folder: where each output lies, how it gets there whole, and who is working on it.

    OUT/recipe.yaml                                   what was asked for, resolved
    OUT/plan.json                                     the shards of the input
    OUT/plan/<shard>.json                             the pictures of one, and what metadata files say of them
    OUT/passes/<pass>-<hash>/<shard>.parquet          a finished pass over a shard; existing is the checkpoint
    OUT/passes/<pass>-<hash>/<shard>.journal.jsonl    paid answers of an unfinished one
    OUT/passes/<pass>-<hash>/<shard>.error.json       why it was set aside
    OUT/passes/<pass>-<hash>/reduced.parquet          what a pass over the whole collection found
    OUT/dataset/                                      the finished dataset

The hash covers the pass's options and everything before it, so a changed recipe never mixes with old output.
"""

from __future__ import annotations

from pathlib import Path


class Store:
    """Paths of a run."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def listing(self, shard: str) -> Path:
        return self.out / "plan" / f"{shard}.json"

    def folder(self, pass_key: str) -> Path:
        """The folder of one pass; `pass_key` is its name and hash."""
        return self.out / "passes" / pass_key

    def output(self, pass_key: str, shard: str) -> Path:
        return self.folder(pass_key) / f"{shard}.parquet"

    def journal(self, pass_key: str, shard: str) -> Path:
        return self.folder(pass_key) / f"{shard}.journal.jsonl"

    def error(self, pass_key: str, shard: str) -> Path:
        return self.folder(pass_key) / f"{shard}.error.json"

    def reduced(self, pass_key: str) -> Path:
        return self.folder(pass_key) / "reduced.parquet"
