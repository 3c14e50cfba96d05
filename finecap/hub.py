"""What may be an id on the Hub, and what is a path on this disk."""

import re
from pathlib import Path

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(given: str | Path) -> bool:
    """Whether `given` reads as `owner/name`, and no part of it is on this disk.

    Where a folder `outputs` is, `outputs/demoo` is a mistyped path: nobody is asked for it over the network. A single
    word is always a path.
    """
    path = Path(given)
    return bool(_ID.fullmatch(str(given))) and not path.exists() and not path.parent.is_dir()
