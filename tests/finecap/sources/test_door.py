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
import webdataset
from PIL import Image

from finecap.features import FINECAP_FEATURES
from finecap.shards.tar_writer import export_webdataset
from finecap.sources.door import open_source
from finecap.sources.rows import BadRow, Row
from tests.support.sources import captions, everything, picture

PICTURES = [picture(number) for number in range(6)]
SIZES = [Image.open(io.BytesIO(data)).size for data in PICTURES]


@pytest.fixture
def folder(tmp_path):
    for number, data in enumerate(PICTURES):
        path = tmp_path / "pictures" / f"{number // 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "pictures"


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


@pytest.mark.parametrize("how", ["folder", "glob", "file", "mapping"])
def test_parquet_is_opened_by_folder_glob_file_and_mapping(tmp_path, nano_corpus, how):
    file = nano_corpus / "data" / "train-00000-of-00001.parquet"
    spec = {
        "folder": str(nano_corpus),
        "glob": str(nano_corpus / "*" / "train-*.parquet"),
        "file": str(file),
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


def test_webdataset_archives_of_its_own_writer(tmp_path):
    for archive, numbers in (("0.tar", range(4)), ("1.tar", range(4, 6))):
        with webdataset.TarWriter(str(tmp_path / archive)) as writer:
            for number in numbers:
                writer.write({"__key__": f"{number:05d}", "png": PICTURES[number], "txt": f"picture {number}"})
    source, rows, pictures = everything(str(tmp_path))
    assert captions(rows) == [f"picture {number}" for number in range(6)]
    assert pictures == [[data] for data in PICTURES]
    assert rows[4].id == "1.tar/00004.png"
    assert source.kind == "captions"


def test_archives_of_img2dataset_and_of_class_names(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        said = {"caption": "said", "url": "https://x/y.jpg", "width": 5, "height": 6, "status": "success"}
        writer.write({"__key__": "a", "jpg": picture(1, file_format="JPEG"), "json": said})
        writer.write(
            {"__key__": "b", "webp": picture(2, file_format="WEBP"), "json": {"caption": "x"}, "txt": "text wins"}
        )
        writer.write({"__key__": "c", "png": PICTURES[3], "cls": 17})
        writer.write({"__key__": "d", "png": PICTURES[4], "cls": b"tabby cat"})
    rows = everything(str(tmp_path))[1]
    assert captions(rows) == ["said", "text wins", None, "tabby cat"]
    assert [row.sizes[0] for row in rows] == [(5, 6), (22, 32), SIZES[3], SIZES[4]]


def test_our_own_archives_are_finecap_records(nano_corpus, tmp_path):
    export_webdataset((nano_corpus / "data").iterdir(), tmp_path)
    source, rows, pictures = everything(str(tmp_path))
    _, ours, theirs = everything(str(nano_corpus))
    assert source.kind == "finecap"
    assert [row.record for row in rows] == [row.record for row in ours]
    assert pictures == theirs


def test_large_archives_are_cut_and_a_cut_off_end_is_said(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(600):
            writer.write({"__key__": f"{number:05d}", "png": picture(number), "txt": f"picture {number}"})
    source, rows, pictures = everything(str(tmp_path))
    assert [part.rows for part in source.parts] == [256, 256, None]
    assert captions(rows) == [f"picture {number}" for number in range(600)]
    assert pictures == [[picture(number)] for number in range(600)]
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 512 * 1100])
    rows = everything(str(tmp_path))[1]
    assert isinstance(rows[-1], BadRow)
    assert rows[-1].reason.startswith("truncated: ")
    assert captions(rows[:-2]) == [f"picture {number}" for number in range(len(rows) - 2)]


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


def turns(*words):
    roles = ["user", "assistant"] * len(words)
    return [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in zip(roles, words, strict=False)
    ]


def shown(count, messages):
    messages[0]["content"][:0] = [{"type": "image"}] * count
    return messages


def test_messages_and_images_as_trl_publishes_them(tmp_path):
    rows = [
        {"images": PICTURES[:1], "messages": shown(1, turns("What?", "A."))},
        {"images": PICTURES[1:3], "messages": shown(2, turns("Which?", "The second.", "Sure?", "Yes."))},
        {"images": [], "messages": turns("Hello", "Hello.")},
    ]
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List(
                {
                    "role": datasets.Value("string"),
                    "content": datasets.List({"type": datasets.Value("string"), "text": datasets.Value("string")}),
                }
            ),
        }
    )
    made = [{**row, "images": [{"bytes": one, "path": None} for one in row["images"]]} for row in rows]
    datasets.Dataset.from_list(made, features=features).to_parquet(str(tmp_path / "train.parquet"))
    source, found, pictures = everything(str(tmp_path))
    assert source.kind == "messages"
    assert [row.messages for row in found] == [row["messages"] for row in rows]
    assert pictures == [row["images"] for row in rows]
    assert [row.sizes for row in found] == [SIZES[:1], SIZES[1:3], []]
    assert all(row.record is None for row in found)


def test_texts_and_images_as_finevision_and_the_cauldron_publish_them(tmp_path):
    texts = [{"user": "Q1", "assistant": "A1", "source": "vqa"}, {"user": "Q2", "assistant": "A2", "source": "vqa"}]
    made = {"images": [[{"bytes": PICTURES[0], "path": None}], None], "texts": [texts, texts[:1]]}
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": [{key: datasets.Value("string") for key in ("user", "assistant", "source")}],
        }
    )
    datasets.Dataset.from_dict(made, features=features).to_parquet(str(tmp_path / "train-0.parquet"))
    _, rows, pictures = everything(str(tmp_path))
    assert [row.messages for row in rows] == [shown(1, turns("Q1", "A1", "Q2", "A2")), turns("Q1", "A1")]
    assert pictures == [[PICTURES[0]], []]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_llava_json(folder, form):
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    rows = [
        {"id": "1", "image": "0/0.png", "conversations": said},
        {
            "id": "1",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi."}],
            "model": "x",
        },
        {
            "id": 3,
            "image": ["0/1.png", "1/5.png"],
            "conversations": [{"from": "human", "value": "<image> or <image>?"}, said[1]],
        },
        {"id": 4, "image": "0/2.png", "conversations": [{"from": "human", "value": "Who?\n<image>"}, said[1]]},
        {"id": 5, "image": "../secret.png", "conversations": said},
        {"id": 6, "conversations": said},
    ]
    text = json.dumps(rows, indent=2) if form == "json" else "\n".join(map(json.dumps, rows))
    (folder / f"llava.{form}").write_text(text)
    source, found, pictures = everything(str(folder / f"llava.{form}"))
    assert source.kind == "conversations"
    assert [row.id for row in found] == [f"llava.{form}#{number}" for number in range(6)]
    assert found[0].messages == shown(1, turns("What?", "A."))
    assert found[1] == Row(f"llava.{form}#1", [], messages=turns("Hi", "Hi."))
    assert [piece.get("text", "IMAGE") for piece in found[2].messages[0]["content"]] == ["IMAGE", " or ", "IMAGE", "?"]
    assert [piece.get("text", "IMAGE") for piece in found[3].messages[0]["content"]] == ["Who?", "IMAGE"]
    assert pictures == [[PICTURES[0]], [], [PICTURES[1], PICTURES[5]], [PICTURES[2]], None, None]
    assert found[4].reason == "path refused: '../secret.png' leads out of the source's folder"
    assert found[5].reason == "pictures: 1 are shown in the turns, and there are 0"


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


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no file of a known kind"),
        ({"a.png": b"", "b.parquet": b""}, "different kinds, such as b.parquet and a.png"),
        ({"a.png": b"", "llava.json": b"[]"}, "different kinds, such as llava.json and a.png"),
        ({"train.parquet": b"PAR1"}, "cannot be read as parquet"),
        ({"a.csv": b""}, "its first line is it is empty"),
        ({"a.csv": b"url,text\nhttps://x/a.png,b\n"}, r"its columns are url, text; .*links are not fetched"),
        (
            {"a.jsonl": b'{"question": "Q"}\n'},
            r"its columns are question; expected .*its first row is .*'question': 'Q'",
        ),
        ({"a.jsonl": b"[1, 2]"}, "a.jsonl#0: row: '1', expected an object"),
        ({"a.json": b'[{"image": "a"}, {'}, "is no JSON from byte 17 on"),
        ({"a.json": b'[{"image": "a"} {}]'}, "is no JSON at byte 16"),
        ({"a.json": b"[]"}, "holds no rows"),
        ({"train.csv": b"image,caption\n", "test.csv": b"image,caption\n"}, "holds no rows"),
        ({"test-0.parquet": b""}, "holds no files of the split 'train'; there are test"),
    ],
)
def test_what_fits_no_kind_is_said(tmp_path, files, says):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=says):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (7, "a source is 7, expected a path or a mapping"),
        ({"path": "a", "wieght": 1}, "a source has wieght, expected path, name, weight, columns, split"),
        ({"path": "a", "name": "b"}, "give one of them"),
        ({"weight": 1}, "give one of them"),
        ({"path": "a", "weight": 0}, "weight is 0, expected a number above 0"),
        ({"path": "a", "weight": float("nan")}, "weight is nan"),
        ({"path": "a", "columns": {"picture": "x"}}, "expected names for image and caption"),
        ({"path": "a", "split": 1}, "split is 1"),
        ("nowhere/at/all", "no such file or folder"),
        ("nowhere/*.parquet", "no file matches this pattern"),
        ("gopher://x/y.parquet", "gopher:// cannot be read"),
    ],
)
def test_what_is_no_spec_is_said(spec, says):
    with pytest.raises(ValueError, match=says):
        open_source(spec)


def test_a_file_that_is_gone_ends_the_run_with_its_name(tmp_path):
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read .* it was there when the source was opened"):
        source.read_rows(source.parts[0])


def test_a_file_that_was_written_over_ends_the_run_and_one_that_lost_rows_says_so(tmp_path):
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "a.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"image": PICTURES[:3]}), tmp_path / "a.parquet", row_group_size=3)
    for part in source.parts:
        with pytest.raises(ValueError, match="its row groups are not those that it had"):
            source.read_rows(part)
    (tmp_path / "1.png").write_bytes(PICTURES[1])
    (tmp_path / "a.jsonl").write_text('{"image": "1.png"}\n' * 3)
    source = open_source(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"image": "1.png"}\n' * 2)
    assert len(source.read_rows(source.parts[0])) == 2
    found = source.read_pictures(source.parts[0], [1, 2])
    assert found[1] == [PICTURES[1]]
    assert found[2].reason == "unreadable: the file has fewer rows than it had"


def test_finecap_features_are_all_in_a_record(nano_corpus):
    assert set(everything(str(nano_corpus))[1][0].record) == set(FINECAP_FEATURES)
