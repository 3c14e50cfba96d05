"""What is true of a document, in sentences: what its kind looks like, and what is written where."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from finecap.corpus.caption_pair import Facts, listed
from finecap.corpus.documents.page import Document
from finecap.corpus.scenes.referring import article
from finecap.records import Region
from finecap.sentences import sentences

SHORT_ANSWERS = 2  # answers that a short caption names
FIRST_WORDS = 6  # words by which a paragraph is known

_PAPER = "The picture shows a single page of light paper with dark printing on it, and nothing beside the page."
_RULES = "It is ruled with thin horizontal lines from one side to the other, and no lines stand between the columns."
COMMON = {
    "typed": ("A typed form on plain paper.", "Each line has the name of a field and then its value."),
    "form": (
        _PAPER,
        "It is a form with a title at the top, printed larger than the rest and in bold.",
        "Below the title, every row begins with the name of a field in bold letters, followed by a colon, and its "
        "value stands to the right of it in plain letters.",
        "The rows follow each other with some space between them, and all values form one column.",
    ),
    "table": (
        _PAPER,
        "It holds a table with a title above it, printed larger than the rest and in bold.",
        _RULES,
        "The first row of the table is bold and names the columns; the first column names cities, and every other "
        "cell is a whole number.",
    ),
    "invoice": (
        _PAPER,
        "It is an invoice, headed by the name of the seller in large bold letters, with its number, its date and the "
        "buyer below.",
        "Then a table tells the goods with how many there are of each, the price of one and the amount.",
        _RULES,
        "The total stands below the table at the right, in bold.",
    ),
    "letter": (
        _PAPER,
        "It is a letter: the address of the sender stands at the top left and the date at the top right.",
        "Below come a reference in bold letters, a line that greets the reader, and paragraphs of text.",
        "It ends at the bottom left with a closing phrase and the name of the one who wrote it.",
    ),
    "report": (
        _PAPER,
        "A title in large bold letters runs across the top, with the name of the author below it in smaller letters.",
        "The rest is set in two columns of the same width, in which short headings in bold letters and paragraphs of "
        "plain text take turns.",
        "The number of the page stands alone at the bottom right.",
    ),
}


def facts(rng: random.Random, drawn: Document) -> Facts:
    """Facts of a page of one of `page_kinds.TEMPLATES`, or of a typed form."""
    common = COMMON[drawn.kind]
    if drawn.kind == "typed":
        fields = [line.text.split() for line in written(drawn.regions)]
        own = [f"The {name} is {value}." for name, value in fields]
        own += [f"Line {number} says {name} {value}." for number, (name, value) in enumerate(fields, 1)]
        return Facts(f"A form with {listed([f'{name} {value}' for name, value in fields])}.", common, own)
    own = list(dict.fromkeys(block_facts(drawn.regions, drawn.image.height)))
    rng.shuffle(own)
    answers = sorted({item["answers"][0] for item in drawn.questions})
    named = listed(rng.sample(answers, min(SHORT_ANSWERS, len(answers))))
    return Facts(f"{article(drawn.kind).capitalize()} that says {named}.", common, own)


class Written(NamedTuple):
    """A line of writing: the label and the number of the block it belongs to, and its box."""

    text: str
    label: str
    block: int
    bbox: list[float]


def written(regions: Sequence[Region]) -> Iterator[Written]:
    """The lines of a page in reading order. A block of a single line has no region of its own; its label is "line"."""
    label, block, left = "line", 0, 0
    for item in regions:
        if item["label"] == "line":
            if not left:
                label, block = "line", block + 1
            left = max(left - 1, 0)
            yield Written(str(item["text"]), label, block, item["bbox"])
        elif item["label"] != "word":
            label, block, left = item["label"], block + 1, str(item["text"]).count("\n") + 1


def block_facts(regions: Sequence[Region], height: int) -> Iterator[str]:
    """One sentence for each block of a page of `height` pixels."""
    for _, group in groupby(written(regions), key=lambda line: line.block):
        lines = list(group)
        first, *rest = (line.text for line in lines)
        label = lines[0].label
        if label == "table_row":
            yield f"The row of {first} reads {listed(rest)}."
        elif label == "field":
            yield f"The field {first.removesuffix(':')} reads {listed(rest)}."
        else:
            yield f"{article(label).capitalize()} {_place(lines[0].bbox, height)} {_quoted(first, ends=not rest)}."


def _place(bbox: Sequence[float], height: int) -> str:
    thirds = ("near the top", "in the middle", "near the bottom")
    return thirds[min(int(3 * (bbox[1] + bbox[3]) / 2 / height), 2)]


def _quoted(text: str, ends: bool) -> str:
    """What a line says, up to its first words; `ends` tells that nothing follows it."""
    words = sentences(text)[0].split()[:FIRST_WORDS]
    verb = "reads" if ends and words == text.split() else "begins with"
    return f'{verb} "{" ".join(words)}"'
