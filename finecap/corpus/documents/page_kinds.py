"""Kinds of pages. Each template sets a whole page and returns its questions and one sentence that says what the page
is.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from finecap.corpus.documents import content as doc_content
from finecap.corpus.documents.content import LAST_DATE, ask, dollars, faker_for, owned_value
from finecap.corpus.documents.page import Page, Style
from finecap.corpus.drawing.raster import text_width
from finecap.records import QA

Template = Callable[[random.Random, Page, Style, str], tuple[list[QA], str]]


def margins(page: Page, style: Style) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the text area in pixels."""
    side = max(page.image.width // 14, style.size)
    top = max(page.image.height // 16, style.size // 2)
    return side, top, page.image.width - side, page.image.height - top


def heading(page: Page, style: Style, text: str) -> int:
    """A title at the top of the text area; returns where the next block may begin."""
    left, top, right, bottom = margins(page, style)
    large = Style(bold(style.face), round(style.size * 1.5), style.ink, 1.2)
    return page.paragraph("title", text, large, left, top, right - left, bottom) + style.size // 2


def bold(face: str) -> str:
    """The bold face of a family."""
    return f"{face.split('-')[0]}-bold"


def form(rng: random.Random, page: Page, style: Style, split: str) -> tuple[list[QA], str]:
    """Names in one column, values in the next."""
    left, _, right, bottom = margins(page, style)
    title = rng.choice(("Application", "Registration", "Order form", "Visitor card", "Record", "Claim"))
    y = heading(page, style, title)
    room = max((bottom - y) // (style.pitch + style.size // 2), 1)
    found = doc_content.entries(rng, split, min(room, 14))
    strong = Style(bold(style.face), style.size, style.ink, style.leading)
    column = left + max(text_width(strong.face, strong.size, f"{entry.name}: ") for entry in found) + style.size // 2
    shown = [entry for entry in found if column + text_width(style.face, style.size, entry.value) <= right]
    for entry in shown:
        block = page.block("field")
        page.line(block, f"{entry.name}:", strong, left, y + style.size)
        page.line(block, entry.value, style, column, y + style.size)
        y += style.pitch + style.size // 2
    questions = [ask(entry.question, entry.value) for entry in shown]
    return questions, f"A form titled {title} with {len(shown)} fields."


def grid(page: Page, style: Style, header: list[str], rows: list[list[str]], x: int, top: int, width: int) -> int:
    """A ruled table: the first column from the left, the others against the right edge of theirs; returns the y below
    it.
    """
    columns = len(header)
    edges = [x + round(width * (k + 1) / columns) for k in range(columns)]
    strong = Style(bold(style.face), style.size, style.ink, style.leading)
    row_height = style.pitch + style.size // 4
    page.rule((x, top, x + width, top + 1), style.ink)
    for number, row in enumerate([header, *rows]):
        block = page.block("table_row")
        baseline = top + number * row_height + (row_height + style.size) // 2 - style.size // 8
        for column, cell in enumerate(row):
            right = None if column == 0 else edges[column] - style.size // 4
            page.line(block, cell, strong if number == 0 else style, x + style.size // 4, baseline, right)
        below = top + (number + 1) * row_height
        page.rule((x, below, x + width, below + 1), style.ink)
    return top + (len(rows) + 1) * row_height + style.size


def table(rng: random.Random, page: Page, style: Style, split: str) -> tuple[list[QA], str]:
    """A caption, a table of numbers, and a note below if there is room."""
    left, _, right, bottom = margins(page, style)
    title = rng.choice(("Visitors", "Parcels", "Calls", "Tickets", "Meals"))
    y = heading(page, style, f"{title} by city and day")
    columns = max(min((right - left) // (6 * style.size) - 1, 5), 1)
    room = (bottom - y) // (style.pitch + style.size // 4) - 2
    names, days, cells = doc_content.number_table(rng, split, max(min(room, rng.randint(4, 18)), 1), columns)
    y = grid(
        page,
        style,
        ["City", *days],
        [[name, *row] for name, row in zip(names, cells, strict=True)],
        left,
        y,
        right - left,
    )
    page.paragraph("paragraph", doc_content.prose(rng, 6), style, left, y, right - left, bottom)
    asked = [(row, column) for row in range(len(names)) for column in range(columns)]
    questions = [
        ask(f"What is the number of {title.lower()} for {names[row]} on {days[column]}?", cells[row][column])
        for row, column in rng.sample(asked, min(6, len(asked)))
    ]
    return questions, f"A page with a table of {title.lower()}: {len(names)} rows and {columns + 1} columns."


def invoice(rng: random.Random, page: Page, style: Style, split: str) -> tuple[list[QA], str]:
    """Seller, number, date, buyer, a table of goods and the total."""
    left, _, right, bottom = margins(page, style)
    fake = faker_for(rng)
    seller, buyer = owned_value(fake.company, split), owned_value(fake.name, split)
    number = owned_value(lambda: fake.bothify("INV-####-??").upper(), split)
    date = owned_value(lambda: fake.date("%d %B %Y", end_datetime=LAST_DATE), split)
    y = heading(page, style, seller)
    for name, value in (("Invoice", number), ("Date", date), ("Bill to", buyer)):
        page.line(page.block("field"), f"{name}: {value}", style, left, y + style.size)
        y += style.pitch
    y += style.size // 2
    room = (bottom - y) // (style.pitch + style.size // 4) - 3
    goods = doc_content.items(rng, split, max(min(room, rng.randint(2, 14)), 1))
    rows = [[item.name, str(item.quantity), dollars(item.price), dollars(item.amount)] for item in goods]
    y = grid(page, style, ["Item", "Qty", "Price", "Amount"], rows, left, y, right - left)
    total = dollars(sum(item.amount for item in goods))
    strong = Style(bold(style.face), style.size, style.ink)
    page.line(page.block("field"), f"Total: {total}", strong, left, y + style.size // 2, right - style.size // 4)
    page.paragraph("paragraph", doc_content.prose(rng, 3), style, left, y + 2 * style.size, right - left, bottom)
    item = rng.choice(goods)
    questions = [
        ask("What is the invoice number?", number),
        ask("What is the date of the invoice?", date),
        ask("Who is the invoice billed to?", buyer),
        ask("Which company issued the invoice?", seller),
        ask("What is the total amount?", total),
        ask(f"What is the price of {item.name}?", dollars(item.price)),
        ask(f"What is the amount for {item.name}?", dollars(item.amount)),
    ]
    return (
        questions,
        f"An invoice of {seller} to {buyer} dated {date}, with {len(goods)} items and a total of {total}.",
    )


def letter(rng: random.Random, page: Page, style: Style, split: str) -> tuple[list[QA], str]:
    """Sender, date, recipient, subject, paragraphs, signature."""
    left, top, right, bottom = margins(page, style)
    fake = faker_for(rng)
    sender, recipient = owned_value(fake.name, split), owned_value(fake.name, split)
    street, city = owned_value(fake.street_address, split), owned_value(fake.city, split)
    date = owned_value(lambda: fake.date("%d %B %Y", end_datetime=LAST_DATE), split)
    reference = owned_value(lambda: fake.bothify("??/####").upper(), split)
    y = top
    for text in (sender, street, city):
        page.line(page.block("address"), text, style, left, y + style.size)
        y += style.pitch
    page.line(page.block("field"), date, style, left, top + style.size, right)
    y += style.pitch
    page.line(
        page.block("field"),
        f"Reference: {reference}",
        Style(bold(style.face), style.size, style.ink),
        left,
        y + style.size,
    )
    y = page.paragraph("paragraph", f"Dear {recipient},", style, left, y + 2 * style.pitch, right - left, bottom)
    closing = bottom - 3 * style.pitch
    while y < closing - 3 * style.pitch:
        y = page.paragraph(
            "paragraph", doc_content.prose(rng, rng.randint(2, 6)), style, left, y, right - left, closing
        )
    page.line(
        page.block("field"),
        rng.choice(("Sincerely,", "Best regards,")),
        style,
        left,
        bottom - style.pitch - style.size // 3,
    )
    page.line(
        page.block("signature"), sender, Style(style.face, style.size, style.ink), left, bottom - style.size // 3
    )
    questions = [
        ask("Who wrote the letter?", sender),
        ask("Who is the letter addressed to?", recipient),
        ask("What is the date of the letter?", date),
        ask("What is the reference?", reference),
        ask("What is the street address of the sender?", street),
        ask("In which city does the sender live?", city),
    ]
    return questions, f"A letter from {sender} to {recipient}, dated {date}."


def report(rng: random.Random, page: Page, style: Style, split: str) -> tuple[list[QA], str]:
    """A title, an author, two columns of prose with sections, and a page number."""
    left, _, right, bottom = margins(page, style)
    fake = faker_for(rng)
    title = " ".join(word.capitalize() for word in fake.words(rng.randint(3, 6)))
    author = owned_value(fake.name, split)
    number = owned_value(lambda: str(rng.randint(2, 9999)), split)
    y = heading(page, style, title)
    page.line(page.block("author"), f"by {author}", style, left, y + style.size)
    y += 2 * style.pitch
    gap = 2 * style.size
    width = (right - left - gap) // 2
    foot = bottom - 2 * style.pitch
    strong = Style(bold(style.face), style.size, style.ink)
    for x in (left, left + width + gap):
        top = y
        while top < foot - 4 * style.pitch:
            section = " ".join(fake.words(2)).capitalize()
            top = page.paragraph("heading", section, strong, x, top, width, foot)
            top = page.paragraph("paragraph", doc_content.prose(rng, rng.randint(3, 8)), style, x, top, width, foot)
    page.line(page.block("page_number"), number, style, left, bottom - style.size // 3, right)
    questions = [ask("Who is the author?", author), ask("What is the page number?", number)]
    return questions, f"A page in two columns titled {title}, by {author}."


TEMPLATES: dict[str, Template] = {"form": form, "table": table, "invoice": invoice, "letter": letter, "report": report}
