"""What commands take as values."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1 up. Raises ArgumentTypeError: it is none."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)
