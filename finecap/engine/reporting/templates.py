"""The engine's page and card templates, which lie beside this file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LONGEST_TEXT = 200
# GitHub and the Hub make links of bare addresses; a comment within one keeps it a text.
AUTOLINK = re.compile(r"https?:|ftp:|www(?=\.)|@", re.IGNORECASE)


def render(template: str, **values: Any) -> str:
    """Fill in a template. Values are escaped in HTML and SVG; the Markdown card escapes its own (`cell`)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith((".html.jinja", ".svg.jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = table_cell
    return environment.get_template(template).render(**values)


def shortened(text: str) -> str:
    """An untrusted text on one line, cut where it is longer than a page can show."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def table_cell(value: Any) -> str:
    """Text that stays in its cell of a Markdown table and cannot become markup or a link, whatever it says."""
    text = shortened(str(value))
    for character in "\\`*_[]|~#":
        text = text.replace(character, "\\" + character)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return AUTOLINK.sub(r"\g<0><!-- -->", text)
