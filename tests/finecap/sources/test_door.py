"""One door: each format, in a file that its own ecosystem wrote, comes out as rows and pictures; what fits no kind is
said, and no row raises.
"""

import csv
import io
import json
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finecap.features import FINECAP_FEATURES
from finecap.sources.door import open_source
from finecap.sources.rows import BadRow
from tests.support.sources import PICTURES, SIZES, captions, everything, picture


def test_finecap_parquet_comes_back_as_it_was_written(nano_corpus):
    source, rows, pictures = everything(str(nano_corpus))
    written = pq.read_table(nano_corpus / "data").to_pylist()
    assert (source.kind, source.name, source.weight) == ("finecap", nano_corpus.name, 1.0)
    assert pictures == [[one.pop("image")["bytes"]] for one in written]
    assert [{key: row.record[key] for key in written[0]} for row in rows] == written
    assert [row.sizes for row in rows] == [[(one["width"], one["height"])] for one in written]
    assert all(row.record["image"] == {"bytes": None, "path": None} for row in rows)


def test_a_part_is_a_row_group_and_only_wanted_pictures_come(tmp_path):
    table = pa.table({"image": PICTURES, "caption": list("abcdef")})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    source = open_source(str(tmp_path / "a.parquet"))
    assert [(part.start, part.stop, part.rows) for part in source.parts] == [(0, 4, 4), (4, 6, 2)]
    assert source.read_pictures(source.parts[1], [1]) == {1: [PICTURES[5]]}
    assert source.read_pictures(source.parts[0], []) == {}
    assert [row.id for row in source.read_rows(source.parts[1])] == ["a.parquet#4", "a.parquet#5"]


def test_no_picture_is_read_where_columns_tell_their_sizes(tmp_path, nano_corpus, monkeypatch):
    source = open_source(str(nano_corpus))
    asked = []
    read = source._reader.read
    monkeypatch.setattr(
        source._reader, "read", lambda part, columns, *rest: asked.append(columns) or read(part, columns, *rest)
    )
    source.read_rows(source.parts[0])
    assert asked
    assert all("image" not in columns for columns in asked)
    table = pa.table({"image": PICTURES[:3], "width": [7, None, 0], "height": [8, 9, 0], "caption": ["a", "b", None]})
    pq.write_table(table, tmp_path / "some.parquet")
    rows = everything(str(tmp_path / "some.parquet"))[1]
    assert [row.sizes for row in rows] == [[(7, 8)], [SIZES[1]], [SIZES[2]]]
    assert [(row.record["width"], row.record["height"]) for row in rows] == [row.sizes[0] for row in rows]


@pytest.mark.parametrize("how", ["folder", "glob", "file", "path", "mapping"])
def test_parquet_is_opened_by_folder_glob_file_and_mapping(tmp_path, nano_corpus, how):
    file = nano_corpus / "data" / "train-00000-of-00001.parquet"
    spec = {
        "folder": str(nano_corpus),
        "glob": str(nano_corpus / "*" / "train-*.parquet"),
        "file": str(file),
        "path": file,
        "mapping": {"path": str(file), "weight": 2, "split": "train"},
    }[how]
    source = open_source(spec)
    assert sum(part.rows for part in source.parts) == 48
    assert source.weight == (2.0 if how == "mapping" else 1.0)


def test_a_bare_folder_has_no_captions_and_text_beside_pictures_are_theirs(folder):
    source, rows, pictures = everything(str(folder))
    assert source.kind == "pictures"
    assert [row.id for row in rows] == ["0/0.png", "0/1.png", "0/2.png", "1/3.png", "1/4.png", "1/5.png"]
    assert pictures == [[data] for data in PICTURES]
    assert [row.sizes for row in rows] == [[size] for size in SIZES]
    assert {row.record["license"] for row in rows} == {"unknown"}
    (folder / "1" / "4.txt").write_text(" a cat \n")
    (folder / "1" / "alone.txt").write_text("of no picture")
    source, rows, _ = everything(str(folder))
    assert source.kind == "captions"
    assert captions(rows) == [None] * 4 + ["a cat", None]
    assert rows[4].record["source"] == "pictures"
    (folder / "1" / "4.txt").write_bytes("café".encode("latin-1"))
    rows = everything(str(folder))[1]
    assert rows.pop(4).reason == "caption: 1/4.txt is not UTF-8; save it as UTF-8"
    assert captions(rows) == [None] * 5


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_image_folder_metadata_says_what_datasets_reads_of_it(folder, tmp_path, suffix):
    entries = [{"file_name": f"{number // 3}/{number}.png", "text": f"picture {number}"} for number in (5, 0, 3)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(entries), folder / "metadata.parquet")
    elif suffix == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in entries))
    else:
        with open(folder / "metadata.csv", "w", newline="") as file:
            csv.DictWriter(file, ["file_name", "text"]).writeheader()
            csv.DictWriter(file, ["file_name", "text"]).writerows(entries)
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    _, rows, pictures = everything(str(folder))
    assert sorted(captions(rows)) == sorted(theirs["text"])
    assert captions(rows) == ["picture 5", "picture 0", "picture 3"]
    assert pictures == [[PICTURES[5]], [PICTURES[0]], [PICTURES[3]]]


def test_rows_of_another_split_are_left_out_and_said(folder):
    (folder / "metadata.csv").write_text("file_name,text,split\n0/0.png,a,train\n0/1.png,b,test\n0/2.png,c,\n")
    rows = everything(str(folder))[1]
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False]
    assert rows[1].reason == "other split: test, and train is asked for"


def test_image_caption_pairs_of_datasets_to_parquet(tmp_path):
    images = [Image.open(io.BytesIO(data)) for data in PICTURES]
    made = datasets.Dataset.from_dict({"image": images, "text": list("abcdef")})
    made = made.cast_column("image", datasets.Image())
    made.to_parquet(str(tmp_path / "validation-00000-of-00001.parquet"))
    source, rows, pictures = everything(str(tmp_path), "validation")
    assert source.kind == "captions"
    assert captions(rows) == list("abcdef")
    assert [Image.open(io.BytesIO(one[0])).tobytes() for one in pictures] == [one.tobytes() for one in images]
    assert {row.record["split"] for row in rows} == {"validation"}


def test_columns_of_other_names_are_named(tmp_path):
    pq.write_table(pa.table({"pixels": PICTURES, "words": list("abcdef"), "TEXT": ["no"] * 6}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"its columns are pixels, words, TEXT; expected .*columns: \{image"):
        open_source(path)
    _, rows, _ = everything({"path": path, "columns": {"image": "pixels", "caption": "words"}})
    assert captions(rows) == list("abcdef")
    with pytest.raises(ValueError, match="`columns` names nothing, and its columns are pixels"):
        open_source({"path": path, "columns": {"image": "nothing"}})


def test_csv_with_paths_beside_it(folder):
    (folder.parent / "pairs.csv").write_text(
        'image,caption,license\npictures/0/0.png,"a, b\nc",cc0\npictures/1/4.png,d,\n'
    )
    _, rows, pictures = everything(str(folder.parent / "pairs.csv"))
    assert captions(rows) == ["a, b\nc", "d"]
    assert [row.record["license"] for row in rows] == ["cc0", "unknown"]
    assert pictures == [[PICTURES[0]], [PICTURES[4]]]
    assert [row.id for row in rows] == ["pairs.csv#0", "pairs.csv#1"]


def test_no_path_is_followed_out_of_the_folder_and_no_link_is_fetched(folder):
    secret = folder.parent / "secret.png"
    secret.write_bytes(PICTURES[0])
    (folder / "out.png").symlink_to(secret)
    (folder / "in.png").symlink_to("1/3.png")
    os.mkfifo(folder / "pipe.png")
    paths = [
        "../secret.png",
        str(secret),
        "out.png",
        "in.png",
        "pipe.png",
        "gone.png",
        "",
        "0",
        "a\0b",
        "https://x/a.png",
    ]
    paths += ["file:///etc/passwd", "data:image/png;base64,AAAA", str(folder / "0" / "0.png")]
    (folder / "pairs.jsonl").write_text("".join(json.dumps({"image": path, "caption": "c"}) + "\n" for path in paths))
    rows = everything(str(folder / "pairs.jsonl"))[1]
    kinds = [row.reason.partition(":")[0] if isinstance(row, BadRow) else "good" for row in rows]
    assert kinds == [
        *["path refused"] * 3,
        *("good", "unreadable", "unreadable", "no picture", "unreadable", "path refused"),
        *["link"] * 3,
        "good",
    ]


@pytest.fixture
def snapshot(tmp_path):
    """A data set as `huggingface_hub.snapshot_download` leaves it: links to files beside it."""
    repository = tmp_path / "hub" / "datasets--o--n"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "images").mkdir(parents=True)
    (repository / "blobs" / "ab").write_bytes(PICTURES[1])
    (repository / "blobs" / "cd").write_text(
        '{"image": "images/1.png", "caption": "c"}\n{"image": "images/out.png"}\n'
    )
    (tmp_path / "outside.png").write_bytes(PICTURES[2])
    (snapshot / "images" / "1.png").symlink_to("../../../blobs/ab")
    (snapshot / "images" / "out.png").symlink_to(tmp_path / "outside.png")
    (snapshot / "train.jsonl").symlink_to("../../blobs/cd")
    return snapshot


def test_links_of_a_snapshot_into_its_own_repository_are_followed_and_no_others(snapshot):
    _, rows, pictures = everything(str(snapshot / "images"))
    assert [row.id for row in rows] == ["1.png"]
    assert pictures == [[PICTURES[1]]]
    _, rows, pictures = everything(str(snapshot / "train.jsonl"))
    assert captions(rows[:1]) == ["c"]
    assert pictures == [[PICTURES[1]], None]
    assert rows[1].reason.startswith("path refused")


@pytest.mark.parametrize("several", [False, True])
def test_a_folder_of_save_to_disk(tmp_path, several):
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": one, "path": None} for one in PICTURES], "text": list("abcdef")}
    )
    made = made.cast_column("image", datasets.Image())
    (datasets.DatasetDict({"train": made, "test": made.select([1])}) if several else made).save_to_disk(
        tmp_path / "saved"
    )
    _, rows, pictures = everything(str(tmp_path / "saved"))
    assert captions(rows) == list("abcdef")
    assert pictures == [[data] for data in PICTURES]
    if several:
        assert captions(everything(str(tmp_path / "saved"), "test")[1]) == ["b"]
        with pytest.raises(ValueError, match="has no split 'validation'; there are train, test"):
            open_source(str(tmp_path / "saved"), "validation")


def test_a_dataset_by_its_name(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": PICTURES[0], "path": None}], "caption": ["a"]}, features=features
    )
    made.to_parquet(str(tmp_path / "set" / "train.parquet"))
    _, rows, pictures = everything(f"datasets:{tmp_path / 'set'}")
    assert captions(rows) == ["a"]
    assert pictures == [[PICTURES[0]]]
    assert everything({"name": str(tmp_path / "set")})[1] == rows


def test_bad_rows_say_why_and_the_others_come(tmp_path):
    values = [PICTURES[0], b"", None, b"GIF89a", PICTURES[1][:-20], picture(5, (30, 10), "JPEG")[:-9]]
    pq.write_table(pa.table({"image": values, "caption": list("abcdef")}), tmp_path / "a.parquet")
    rows = everything(str(tmp_path))[1]
    reasons = [row.reason.partition(":")[0] if isinstance(row, BadRow) else row.sizes for row in rows]
    # A header is no decoding: what is cut off behind it is found when the picture is used.
    assert reasons == [[SIZES[0]], "no picture", "no picture", "not a picture", [SIZES[1]], [(30, 10)]]


def test_a_corrupt_row_group_costs_its_rows_and_no_others(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [picture(number, (300, 200)) for number in range(12)], "caption": list("abcdefghijkl")})
    pq.write_table(table, path, row_group_size=4, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(0)
    data[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    rows = everything(str(path))[1]
    assert [isinstance(row, BadRow) for row in rows] == [False] * 4 + [True] * 4 + [False] * 4
    assert all(row.reason.startswith("unreadable: ") for row in rows[4:8])


def test_text_that_is_not_utf8_costs_its_row(tmp_path):
    words = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    pq.write_table(pa.table({"image": PICTURES[:3], "caption": words}), tmp_path / "a.parquet")
    rows = everything(str(tmp_path))[1]
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False]


def test_finecap_columns_of_another_shape_are_bad_rows(nano_corpus, tmp_path):
    table = pq.read_table(nano_corpus / "data").slice(0, 3)
    pq.write_table(
        table.set_column(table.schema.names.index("regions"), "regions", pa.array([["x"]] * 3)), tmp_path / "a.parquet"
    )
    rows = everything(str(tmp_path))[1]
    assert [row.reason for row in rows] == ["record: record.regions is 'x', expected its fields"] * 3


def test_finecap_features_are_all_in_a_record(nano_corpus):
    assert set(everything(str(nano_corpus))[1][0].record) == set(FINECAP_FEATURES)
