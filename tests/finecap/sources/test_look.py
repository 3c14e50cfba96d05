"""What a look at a source says is what lies in it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from finecap.sources.door import open_source
from finecap.sources.look import LINES, TEXT_HEIGHT, TILE, counted, look_at, report, write_contact_sheet
from tests.support.sources import picture


def test_captions_questions_and_regions_are_counted(nano_corpus):
    source = open_source(str(nano_corpus))
    seen = look_at(source, 1000)
    rows = pq.read_table(nano_corpus / "data").to_pylist()
    assert (seen.rows, seen.total, seen.whole) == (48, 48, True)
    captions = [[row["global_caption"], *row["captions"]] for row in rows]
    assert seen.counts["captions"] == sum(one is not None for of_row in captions for one in of_row)
    assert seen.counts["questions"] == sum(len(row["qa"]) for row in rows)
    assert seen.counts["regions"] == sum(len(row["regions"]) for row in rows)
    assert seen.counts["boxes outside of their picture"] == 0
    assert sorted(seen.sizes) == sorted((row["width"], row["height"]) for row in rows)
    assert f"{nano_corpus.name}: finecap, 1 part, 48 rows" in report(source, seen)


def test_a_box_outside_of_its_picture_is_counted_and_not_drawn(nano_corpus, tmp_path):
    records = pq.read_table(nano_corpus / "data")
    rows = [row for row in records.to_pylist() if row["regions"]][:3]
    rows[1]["regions"][0]["bbox"] = [0.0, 0.0, 9999.0, float("nan")]
    pq.write_table(pa.Table.from_pylist(rows, schema=records.schema), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    seen = look_at(source, 10)
    assert seen.counts["boxes outside of their picture"] == 1
    assert write_contact_sheet(source, seen, tmp_path / "a.png").is_file()


def test_rejects_are_said_by_reason_with_an_example(tmp_path):
    values = [picture(0), b"", b"GIF", picture(1), None]
    pq.write_table(pa.table({"image": values, "caption": [*list("abcd"), None]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    seen = look_at(source, 10)
    text = report(source, seen)
    assert seen.rejects == {"no picture": 2, "not a picture": 1}
    assert "looked at 5 rows: 2 can be used" in text
    assert "cannot be used: 2 'no picture', such as a.parquet#1: no picture: nothing is there" in text
    assert "cannot be used: 1 'not a picture', such as a.parquet#2" in text


def test_columns_that_are_not_read_and_rows_without_a_caption_are_said(tmp_path):
    columns = {"image": [picture(0)] * 3, "mesages": ["x"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "typo.parquet")
    pq.write_table(pa.table({**columns, "caption": ["a", "", None]}), tmp_path / "captions.parquet")
    texts = []
    for name in ("typo", "captions"):
        source = open_source(str(tmp_path / f"{name}.parquet"))
        texts.append(report(source, look_at(source, 10)))
    assert all("columns that are not read: mesages" in text for text in texts)
    assert texts[0].startswith("typo: pictures, ")
    assert "without a caption" not in texts[0]
    assert "3 pictures, 1 caption, 2 without a caption" in texts[1]


def test_a_picture_that_is_missing_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": "there/gone.jpg", "caption": "a"}')
    source = open_source(str(tmp_path / "a.jsonl"))
    assert seen_reasons(source) == ["unreadable: No such file or directory: there/gone.jpg"]


def seen_reasons(source):
    return [row.reason for rows in look_at(source, 10).examples.values() for row in rows]


def test_percentiles_are_of_the_pictures(tmp_path):
    sizes = [(10 + number, 200) for number in range(101)]
    pq.write_table(pa.table({"image": [picture(0, size) for size in sizes]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    line = next(line for line in report(source, look_at(source, 1000)).splitlines() if line.startswith("short side"))
    assert line.split()[3:] == ["10", "15", "35", "60", "85", "105", "110"]


def test_a_small_look_is_spread_over_the_source_and_takes_no_row_twice(tmp_path):
    table = pa.table({"image": [picture(0, (width, 1)) for width in range(1, 1001)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    source = open_source(str(tmp_path / "a.parquet"))
    some = [width for width, _ in look_at(source, 80).sizes]
    assert len(some) == len(set(some)) == 80
    assert {width // 250 for width in some} == {0, 1, 2, 3}
    assert [width for width, _ in look_at(source, 80).sizes] == some
    assert "looked at 80 rows: 80 can be used, with 80 pictures decoded (a sample, seed 0)" in report(
        source, look_at(source, 80)
    )
    assert [width for width, _ in look_at(source, 10_000).sizes] == list(range(1, 1001))


def test_rows_of_a_few_large_parts_are_drawn_from_all_over_them(tmp_path):
    table = pa.table({"image": [picture(0, (width, 1)) for width in range(1, 1001)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=250)
    some = [width for width, _ in look_at(open_source(str(tmp_path / "a.parquet")), 60).sizes]
    assert len(set(some)) == 60
    assert {width // 100 for width in some} >= set(range(10))


def test_pictures_that_cannot_be_decoded_are_counted_with_their_first_ids(folder):
    for name in ("0/1.png", "1/3.png", "1/4.png", "1/5.png"):
        path = folder / name
        path.write_bytes(picture(0, (200, 200))[:-30])
    (folder / "0" / "2.png").write_bytes(picture(0, (900, 900), "JPEG")[:-400])
    source = open_source(str(folder))
    seen = look_at(source, 10)
    assert seen.rejects == {"truncated": 5}
    said = report(source, seen)
    assert "looked at 6 rows: 1 can be used, with 1 picture decoded (all rows)" in said
    assert "cannot be used: 5 'truncated', such as 0/1.png: truncated: " in said
    assert said.endswith("; also 0/2.png, 1/3.png")
    assert len(seen.shown) == 6, "the contact sheet says it in their place"


def test_conversations_are_counted_and_text_alone_is_not_drawn(tmp_path):
    (tmp_path / "0.png").write_bytes(picture(0))
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A."}]
    rows = [{"image": "0.png", "conversations": said}, {"conversations": said * 2}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    source = open_source(str(tmp_path / "a.json"))
    seen = look_at(source, 10)
    counts = {"pictures": 1, "conversations": 2, "answers": 3, "without a picture": 1}
    assert {name: seen.counts[name] for name in counts} == counts
    assert len(seen.shown) == 1


def test_the_sheet_shows_the_beginning_of_what_is_said(tmp_path):
    """Under a picture: the caption, or the first answer; nothing where nothing is said."""
    said = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "turns.json").write_text(json.dumps([{"image": "0.png", "conversations": said}]))
    table = [{"image": "0.png", "caption": "A  dog\nand a cat."}, {"image": "0.png", "caption": None}]
    (tmp_path / "captions.json").write_text(json.dumps(table))
    last_lines = slice(TILE + 32, TILE + TEXT_HEIGHT)
    for name, words in (("turns", [True]), ("captions", [True, False])):
        source = open_source(str(tmp_path / f"{name}.json"))
        sheet = Image.open(write_contact_sheet(source, look_at(source, 10), tmp_path / f"{name}.png"))
        lines = np.asarray(sheet)[last_lines]
        found = [bool((lines[:, at * TILE : (at + 1) * TILE] < 128).any()) for at in range(len(words))]
        assert found == words


def test_counts_of_one_are_singular():
    assert counted(1, "pictures") == "1 picture"
    assert counted(1, "boxes outside of their picture") == "1 box outside of its picture"
    assert counted(1, "without a caption") == "1 without a caption"
    assert counted(1200, "rows") == "1,200 rows"


def test_the_sheet_has_each_picture_in_its_place_and_says_what_cannot_be_decoded(tmp_path):
    colors = [(number, 200, 255 - number) for number in range(40)]
    rows = [{"image": picture(0), "width": 50, "height": 50} for _ in colors]
    for row, color in zip(rows, colors, strict=True):
        path = tmp_path / "one.png"
        Image.new("RGB", (50, 50), color).save(path)
        row["image"] = path.read_bytes()
    rows[0]["image"] = b"nothing"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    source = open_source(str(tmp_path / "a.parquet"))
    seen = look_at(source, 100)
    sheet = np.asarray(Image.open(write_contact_sheet(source, seen, tmp_path / "out" / "a.png")))
    assert sheet.shape == (LINES * (TILE + TEXT_HEIGHT), 8 * TILE, 3)
    middles = [tuple(sheet[TILE // 2, column * TILE + TILE // 2].tolist()) for column in range(8)]
    assert middles[0] == (255, 255, 255)
    assert set(middles[1:]) <= set(colors)
    assert (sheet[:TILE, :TILE] == (255, 0, 0)).all(axis=-1).any()  # the reason, in red
