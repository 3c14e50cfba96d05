"""Where rows of text files begin and end, against the libraries that read them whole."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.sources import text_tables
from finecap.sources.places import LocalPlace
from finecap.sources.text_tables import text_reader

TEXT = st.text(alphabet=st.sampled_from('ab,"\n\r\t é漢{}[]\\:'), max_size=12)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small parts and small reads, so that every boundary is met."""
    monkeypatch.setattr(text_tables, "ROWS_PER_PART", 3)
    monkeypatch.setattr(text_tables, "CHUNK", 16)
    return tmp_path


def read(folder, name, data):
    (folder / name).write_bytes(data)
    reader = text_reader(LocalPlace(str(folder)), [name])
    assert all(part.rows and part.rows <= 3 for part in reader.parts)
    starts = [part.start for part in reader.parts]
    assert starts == [sum(part.rows for part in reader.parts[:at]) for at in range(len(starts))]
    return [item.values for part in reader.parts for item in reader.read(part, ())]


@settings(max_examples=80)
@given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=10), bom=st.booleans(), delimiter=st.sampled_from(",\t"))
def test_csv_is_cut_where_the_csv_module_cuts_it(tmp_path_factory, rows, bom, delimiter):
    folder = tmp_path_factory.mktemp("csv")
    path = folder / "whole.csv"
    with open(path, "w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["first", "second"])
        writer.writerows(rows)
    with open(path, newline="", encoding="utf-8-sig") as file:
        expected = list(csv.DictReader(file, delimiter=delimiter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "ROWS_PER_PART", 3)
        assert read(folder, "a.tsv" if delimiter == "\t" else "a.csv", path.read_bytes()) == expected


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_quote_that_is_left_open_costs_its_own_line(folder, name, mark):
    """And takes no other row for its words, whether another quote follows, or the end, or nothing for a long time."""
    lines = ["image,caption", 'a,"open', "b,two", 'c,"three', 'continued, too"', 'd,"four" said she', "e,five"]
    lines += [f'x{number},"{number}"' for number in range(4)] + ['y,"to the end', "z,last"]
    found = read(folder, name, "\n".join(lines).replace(",", mark).encode())
    good = [tuple(one.values()) for one in found if isinstance(one, dict)]
    assert good == [
        ("b", "two"),
        ("c", f"three\ncontinued{mark} too"),
        ("e", "five"),
        *((f"x{number}", str(number)) for number in range(4)),
        ("z", "last"),
    ]
    assert [one.partition(":")[0] for one in found if isinstance(one, str)] == ["unreadable"] * 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80)
@given(
    rows=st.lists(st.dictionaries(TEXT.filter(bool), VALUES, min_size=1, max_size=3), min_size=1, max_size=10),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    lines=st.booleans(),
)
def test_json_is_cut_where_the_json_module_cuts_it(tmp_path_factory, rows, indent, ascii_only, lines):
    if lines:
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    else:
        text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "ROWS_PER_PART", 3)
        patch.setattr(text_tables, "CHUNK", 16)
        assert read(tmp_path_factory.mktemp("json"), "a.json", f" {text} \n".encode()) == rows


def test_endless_numbers_and_nesting_cost_no_more_than_their_rows(folder):
    row = f'{{"a": {"1" * 5000}}}'.encode()
    assert read(folder, "a.json", b"[" + row + b', {"a": 1}]') == [{"a": float("inf")}, {"a": 1}]
    assert read(folder, "b.jsonl", row + b'\n{"a": 1}') == [{"a": float("inf")}, {"a": 1}]
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    rows = read(folder, "c.jsonl", b'{"a": 1}\n' + deep + b'\n{"a": 2}')
    assert [isinstance(row, str) for row in rows] == [False, True, False]
    with pytest.raises(ValueError, match=r"c.json: is no JSON from byte 1 on \(nested too deep\)"):
        read(folder, "c.json", b"[" + deep + b"]")


def test_a_file_that_changed_since_it_was_opened_costs_its_rows(folder):
    (folder / "a.json").write_text('[{"a": 1}, {"a": 2}]')
    reader = text_reader(LocalPlace(str(folder)), ["a.json"])
    (folder / "a.json").write_text("[" + 30 * "{")
    rows = list(reader.read(reader.parts[0], ()))
    assert [row.values.partition(":")[0] for row in rows] == ["unreadable"] * 2


def test_a_bad_line_is_one_bad_row(folder):
    rows = read(folder, "a.jsonl", b'\n{"a": 1}\n\n{"a": \n[1]\r\n{"a": 2}')
    assert rows[0] == {"a": 1}
    assert rows[1].startswith("unreadable: ")
    assert rows[2].startswith("row: '[1]'")
    assert rows[3:] == [{"a": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,caption\na,café\nb,tea\n"),
        ("a.tsv", "image\tcaption\na\tcafé\nb\ttea\n"),
        ("a.jsonl", '{"image": "a", "caption": "café"}\n{"image": "b", "caption": "tea"}\n'),
        ("a.json", '[{"image": "a", "caption": "café"}, {"image": "b", "caption": "tea"}]'),
    ],
)
def test_a_row_that_is_not_utf_8_is_a_bad_row_and_no_other(folder, name, text):
    """Else a model would be taught marks in place of letters."""
    bad, good = read(folder, name, text.encode("latin-1"))
    assert bad.startswith("unreadable: byte 0xe9 behind")
    assert good == {"image": "b", "caption": "tea"}
    assert read(folder, name, text.encode()) == [{"image": "a", "caption": "café"}, good]


def test_names_of_columns_that_are_not_utf_8_are_refused(folder):
    with pytest.raises(ValueError, match="its first line is unreadable: byte 0xff behind '' is not UTF-8"):
        read(folder, "a.csv", "image,caption\na,b".encode("utf-16"))


@pytest.mark.parametrize("lines", [False, True])
def test_columns_are_those_of_all_rows(folder, lines):
    """A mixture may hold text alone for long before its first picture."""
    rows = [{"words": number} for number in range(300)] + [{"bild_ä": "a.png"}, {"words": 1}]
    (folder / "a.json").write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    assert text_reader(LocalPlace(str(folder)), ["a.json"]).columns == ["words", "bild_ä"]


def test_csv_rows_with_other_fields_are_bad_rows(folder):
    long = "x" * 200_000
    rows = read(folder, "a.csv", f'a,b\n1,2\n3\n4,5,6\n{long},7\n"8\n8",9\n'.encode())
    assert rows[0] == {"a": "1", "b": "2"}
    assert rows[1:3] == ["row: 1 fields, expected 2", "row: 3 fields, expected 2"]
    assert rows[3].startswith("unreadable: field larger than field limit")
    assert rows[4] == {"a": "8\n8", "b": "9"}
