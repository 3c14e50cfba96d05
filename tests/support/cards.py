"""What the card of a finished folder tells a reader to type, as if he did."""

import re

from PIL import Image


def run_snippet(card, where, monkeypatch):
    """Runs the Python of a card, in a folder with a picture; returns its variables."""
    Image.new("RGB", (90, 60), "red").save(where / "picture.png")
    monkeypatch.chdir(where)
    code = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert code
    variables = {}
    exec(code.group(1), variables)
    return variables
