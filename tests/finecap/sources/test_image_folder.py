"""`image_folder`: paths of pictures that begin elsewhere than beside their table, as with LLaVA's `--image_folder`."""

import csv
import json
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from finecap.sources.door import open_source
from finecap.sources.rows import BadRow
from tests.support.file_servers import FileServer, files_of, s3_server
from tests.support.sources import PICTURES, SIZES, captions, everything

PATHS = ["0/0.png", "1/4.png"]
SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]


@pytest.fixture
def table(tmp_path):
    """Writes the two pictures' paths with captions (or LLaVA's turns) to a folder away from them."""
    away = tmp_path / "annotations"
    away.mkdir()

    def write(form):
        path = away / f"train.{form}"
        rows = [{"image": one, "caption": words} for one, words in zip(PATHS, "ab", strict=True)]
        if form == "json":  # as llava_v1_5_mix665k.json, text alone included
            talk = [{**one, "value": one["value"].removeprefix("<image>\n")} for one in SAID]
            shown = [{"id": one, "image": one, "conversations": SAID} for one in PATHS]
            path.write_text(json.dumps([*shown, {"conversations": talk}]))
        elif form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif form == "struct.parquet":
            pq.write_table(
                pa.Table.from_pylist([{**row, "image": {"bytes": None, "path": row["image"]}} for row in rows]), path
            )
        elif form == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif form == "saved":
            datasets.Dataset.from_list(rows).save_to_disk(path)
        else:
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, ["image", "caption"], delimiter="\t" if form == "tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        return str(path)

    return write


FORMS = ["json", "jsonl", "csv", "tsv", "parquet", "struct.parquet", "saved"]


@pytest.mark.parametrize("form", FORMS)
def test_paths_of_a_table_begin_in_the_image_folder(table, folder, form):
    path = table(form)
    assert all(isinstance(row, BadRow) for row in everything(path)[1][:2]), "they are not beside the table"
    _, rows, pictures = everything({"path": path, "image_folder": str(folder)})
    assert pictures[:2] == [[PICTURES[0]], [PICTURES[4]]]
    assert [row.sizes for row in rows[:2]] == [[SIZES[0]], [SIZES[4]]]
    if form == "json":
        assert rows[2].sizes == []
    else:
        assert captions(rows) == ["a", "b"]


@pytest.mark.parametrize("form", ["json", "parquet", "saved"])
def test_pictures_of_a_local_table_may_lie_behind_a_url(table, folder, form):
    with FileServer(files_of(folder)) as server:
        _, rows, pictures = everything({"path": table(form), "image_folder": f"{server.url}/?key=secret"})
        assert pictures[:2] == [[PICTURES[0]], [PICTURES[4]]]
        assert all(path.endswith("?key=secret") for _, path, _ in server.asked)
        assert "secret" not in str(rows)


def test_a_table_behind_a_url_may_name_local_pictures(table, folder, tmp_path):
    table("json")
    with FileServer(files_of(tmp_path / "annotations")) as server:
        pictures = everything({"path": f"{server.url}/train.json", "image_folder": str(folder)})[2]
    assert pictures == [[PICTURES[0]], [PICTURES[4]], []]


@pytest.mark.slow
def test_a_folder_in_s3_and_one_that_is_not_there(table, folder, monkeypatch):
    path = table("json")
    with s3_server(monkeypatch) as (_, client):
        client.create_bucket(Bucket="pictures")
        for one in PATHS:
            client.upload_file(str(folder / one), "pictures", f"coco/{one}")
        assert everything({"path": path, "image_folder": "s3://pictures/coco"})[2][:2] == [
            [PICTURES[0]],
            [PICTURES[4]],
        ]
        with pytest.raises(ValueError, match="image_folder s3://pictures/gone: is no folder"):
            open_source({"path": path, "image_folder": "s3://pictures/gone"})


def test_no_path_is_followed_out_of_the_image_folder(table, folder, tmp_path):
    path = table("json")
    rows = [
        {"image": one, "conversations": SAID} for one in ("../secret.png", str(tmp_path / "secret.png"), "out.png")
    ]
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    found = everything({"path": path, "image_folder": str(folder)})[1]
    assert [row.reason.partition(":")[0] for row in found] == ["path refused"] * 3


def test_a_folder_that_is_not_there_is_said(table, tmp_path):
    with pytest.raises(ValueError, match=r"image_folder .*nowhere: no such folder"):
        open_source({"path": table("csv"), "image_folder": str(tmp_path / "nowhere")})


def test_where_it_would_have_no_effect_it_is_refused(folder, nano_corpus, tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "a", "png": PICTURES[0], "txt": "a"})
    talk = [{"from": "human", "value": "What?"}, SAID[1]]
    (tmp_path / "text.json").write_text(json.dumps([{"conversations": talk}]))
    shutil.copytree(folder, tmp_path / "photos")
    for name, why in {
        tmp_path / "photos": "its pictures are its own files",
        tmp_path / "a.tar": "its rows hold their pictures",
        nano_corpus: "its rows hold their pictures",
        tmp_path / "text.json": "it has no column of pictures",
    }.items():
        with pytest.raises(ValueError, match=f"image_folder would have no effect, because {why}"):
            open_source({"path": str(name), "image_folder": str(folder)})
