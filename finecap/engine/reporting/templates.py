"""The engine's page and card templates, which lie beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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


def table_cell(value: Any) -> str:
    """Text that stays in its cell of a Markdown table and cannot become markup, whatever it says."""
    text = " ".join(str(value).split())
    for character in "\\`*_[]|~#":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
