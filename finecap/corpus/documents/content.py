"""What documents say: values that a split owns, and the questions that ask for them.

Words, names, addresses and sentences come from Faker (MIT), seeded for each record.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from faker import Faker

from finecap.corpus.seeding import split_of
from finecap.records import QA

# Faker's own is today, and then a record would depend on the day on which it is made.
LAST_DATE = datetime(2026, 1, 1)


@functools.cache
def _faker() -> Faker:
    return Faker("en_US")


def faker_for(rng: random.Random) -> Faker:
    """Faker, set to a state that depends on `rng` alone."""
    fake = _faker()
    fake.seed_instance(rng.getrandbits(64))
    return fake


def owned_value(make: Callable[[], str], split: str) -> str:
    """The first value of a maker that the split owns as a string."""
    while True:
        value = make()
        if split_of("doc-value", value) == split:
            return value


def money(rng: random.Random, low: int, high: int) -> str:
    """An amount between two limits in dollars, written $1,234.50."""
    return dollars(rng.randint(100 * low, 100 * high))


def dollars(cents: int) -> str:
    """Cents written as $1,234.50."""
    return f"${cents // 100:,}.{cents % 100:02d}"


def ask(question: str, answer: str) -> QA:
    """A question in DocVQA's manner: an amount is also right without its currency sign."""
    answers = [answer, answer[1:]] if answer.startswith("$") else [answer]
    return {"question": question, "answers": answers, "kind": "doc"}


@dataclass(frozen=True)
class Entry:
    """A named value on a form, and how one asks for it."""

    name: str
    value: str
    question: str


def entries(rng: random.Random, split: str, count: int) -> list[Entry]:
    """`count` different named values that the split owns."""
    fake = faker_for(rng)
    makers: dict[str, tuple[str, Callable[[], str]]] = {
        "Name": ("What is the name?", fake.name),
        "City": ("Which city is given?", fake.city),
        "Company": ("What is the company?", fake.company),
        "Date": ("What is the date?", lambda: fake.date("%d %b %Y", end_datetime=LAST_DATE)),
        "Phone": ("What is the phone number?", lambda: fake.numerify("###-###-####")),
        "Order No": ("What is the order number?", lambda: fake.bothify("??-####").upper()),
        "Total": ("What is the total?", lambda: money(rng, 5, 999)),
        "Paid": ("How much was paid?", lambda: money(rng, 5, 999)),
        "Account": ("What is the account number?", lambda: fake.numerify("########")),
        "E-mail": ("What is the e-mail address?", fake.safe_email),
        "Job": ("What is the job?", fake.job),
        "Street": ("What is the street address?", fake.street_address),
        "ZIP": ("What is the ZIP code?", fake.postcode),
        "Country": ("Which country is given?", fake.country),
        "Due": ("When is it due?", lambda: fake.date("%d.%m.%Y", end_datetime=LAST_DATE)),
        "Room": ("What is the room?", lambda: fake.bothify("?##").upper()),
    }
    chosen = rng.sample(sorted(makers), min(count, len(makers)))
    return [Entry(name, owned_value(makers[name][1], split), makers[name][0]) for name in chosen]


@dataclass(frozen=True)
class Item:
    """A line of an invoice; money in cents."""

    name: str
    quantity: int
    price: int

    @property
    def amount(self) -> int:
        """Quantity times price in cents."""
        return self.quantity * self.price


GOODS = tuple(
    """
    Paper Pens Folders Staples Labels Envelopes Toner Lamps Chairs Desks Cables Monitors Keyboards Batteries Markers
    Binders Shelves Clocks Mugs Filters Gloves Brushes Hammers Screws Hinges Paint Tiles Pipes Valves Fuses
    """.split()  # noqa: SIM905
)


def items(rng: random.Random, split: str, count: int) -> list[Item]:
    """Different goods whose amounts, prices and total the split owns as strings."""
    names = rng.sample(GOODS, count)
    while True:
        found = [owned_item(rng, split, name) for name in names]
        if split_of("doc-value", dollars(sum(item.amount for item in found))) == split:
            return found


def owned_item(rng: random.Random, split: str, name: str) -> Item:
    """An item whose price and amount the split owns."""
    while True:
        item = Item(name, rng.randint(1, 12), rng.randint(50, 49999))
        if all(split_of("doc-value", dollars(value)) == split for value in (item.price, item.amount)):
            return item


def number_table(
    rng: random.Random, split: str, rows: int, columns: int
) -> tuple[list[str], list[str], list[list[str]]]:
    """Row names, column names and cells: numbers that the split owns."""
    fake = faker_for(rng)
    row_names: list[str] = []
    while len(row_names) < rows:
        name = fake.city()
        if name not in row_names and " " not in name:
            row_names.append(name)
    column_names = rng.sample(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], columns)
    cells = [[owned_value(lambda: str(rng.randint(100, 9999)), split) for _ in range(columns)] for _ in range(rows)]
    return row_names, column_names, cells


def prose(rng: random.Random, sentences: int) -> str:
    """Some sentences of English words in no meaningful order."""
    return " ".join(faker_for(rng).sentences(sentences))
