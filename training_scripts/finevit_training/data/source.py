"""What a run is trained on: opened sources, their parts, and the order of their rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finecap.recipe_files import without_secrets
from finecap.sources.door import Source, open_source
from finecap.sources.rows import Part
from finevit_training.data.order import (
    BLOCK,
    DEPTH,
    LARGE_DATA,
    LARGE_WINDOW,
    SMALL_WINDOW,
    UNKNOWN_ROWS,
    Order,
    lanes_of,
)


class Data(NamedTuple):
    """Opened sources and all their parts.

    Attributes:
        sources: in the recipe's order.
        parts: number of the source, and part; their numbers are those of the order.
    """

    sources: list[Source]
    parts: list[tuple[int, Part]]

    @property
    def rows(self) -> int | None:
        """Rows of all sources; None where some are counted only by reading."""
        counts = [part.rows for _, part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    def order(self, seed: int, step: int, most_rows: int | None = None) -> Order:
        """The order of the rows of all epochs.

        Args:
            step: packs of an optimizer step, over all ranks.
            most_rows: about so many rows of an epoch, drawn from all parts; all without it.
        """
        rows = [UNKNOWN_ROWS if part.rows is None else part.rows for _, part in self.parts]
        weights = [self.sources[number].weight for number, _ in self.parts]
        total = sum(count * weight for count, weight in zip(rows, weights, strict=True))
        if most_rows is not None and most_rows < total:
            weights = [weight * most_rows / total for weight in weights]
        lanes = lanes_of(step)
        window_rows = (LARGE_WINDOW if total >= LARGE_DATA else SMALL_WINDOW) * max(1, step // lanes // BLOCK)
        return Order(rows, weights, seed, window_rows, streams=lanes * DEPTH)


def open_data(specs: Sequence[str | Mapping[str, Any]], split: str) -> Data:
    """Opens the sources of a recipe, see `finecap.sources.door.open_source`.

    Raises:
        ValueError: one of them is not there or fits no kind.
    """
    sources = []
    for spec in specs:
        try:
            sources.append(open_source(spec, split))
        except (OSError, ValueError) as error:
            raise ValueError(f"{without_secrets(spec)!r} in `data` cannot be opened: {error}") from error
    return Data(sources, [(number, part) for number, source in enumerate(sources) for part in source.parts])
