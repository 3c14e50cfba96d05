"""Urban-1k (Zhang et al. 2024, Long-CLIP): 1,000 pictures of streets."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, needed

LAYOUT = "Urban-1k: caption/*.txt and image/*.jpg"


def first_lines(data: Path) -> Captioned:
    """Each picture with the first line of its caption file (Long-CLIP)."""
    paths = sorted(needed(data / "caption", LAYOUT).glob("*.txt"))
    return [(data / "image" / f"{path.stem}.jpg", [path.read_text("utf-8").split("\n")[0].strip()]) for path in paths]
