"""What commands take as values."""

import argparse

DEVICE = "for instance cpu or cuda:0; the GPU where there is one by default"


def positive(text: str) -> int:
    """A whole number from 1 up. Raises ArgumentTypeError: it is none."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)
