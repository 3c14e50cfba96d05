"""The pictures that features are asked of: files and folders of them, each under a name of its own."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from finecap.pictures import MAX_PIXELS, open_rgb
from finecap.shards.plan import PICTURES


def picture_files(given: Iterable[Path]) -> dict[str, Path]:
    """Files by name: their stem, with a number behind it where several have the same.

    Args:
        given: files, and folders that stand for all pictures below them, in the order of their paths.

    Raises:
        ValueError: there is no such file or folder, or no picture in a folder.
    """
    files: dict[str, Path] = {}
    for path in given:
        for file in _pictures_below(path) if path.is_dir() else [path]:
            name, number = file.stem, 1
            while name in files:
                number += 1
                name = f"{file.stem}-{number}"
            files[name] = file
    return files


def open_picture(file: Path) -> Image.Image:
    """A picture as upright RGB.

    Raises:
        ValueError: it is missing or no picture; the message names it.
    """
    try:
        picture = open_rgb(file.read_bytes(), MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error.strerror if isinstance(error, OSError) else error}") from error
    picture.filename = str(file)  # ty: ignore[missing-attribute]  (for the messages of later errors)
    return picture


def _pictures_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))}).")
    return found
