"""Whole trainings of two steps on data as other programs write it, each by the command line's own `main`."""

import csv
import io
import json

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from finevit_training.vl_sft import main
from tests.support.launching import SMALLEST

QUESTION = "What is shown?"
CAPTIONED = {"global_caption": 1, "qa": 0}


@pytest.fixture(scope="session")
def samples(nano_corpus):
    """Encoded pictures of the corpus with a caption each."""
    rows = pq.read_table(nano_corpus / "data").to_pylist()
    return [(row["image"]["bytes"], row["global_caption"] or row["id"]) for row in rows][:24]


def finecap(samples, folder, corpus):
    return corpus, {"qa": 100, "transcribe": 1, "global_caption": 1}


def image_folder(samples, folder, corpus):
    for number, (picture, caption) in enumerate(samples):
        (folder / f"{number:03}.png").write_bytes(picture)
        (folder / f"{number:03}.txt").write_text(caption)
    return folder, CAPTIONED


def captions_csv(samples, folder, corpus):
    (folder / "pictures").mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number, (picture, caption) in enumerate(samples):
            (folder / "pictures" / f"{number}.png").write_bytes(picture)
            writer.writerow([f"pictures/{number}.png", caption])
    return folder / "captions.csv", CAPTIONED


def webdataset_tar(samples, folder, corpus):
    with webdataset.TarWriter(str(folder / "00000.tar")) as writer:
        for number, (picture, caption) in enumerate(samples):
            writer.write({"__key__": f"{number:06}", "png": picture, "txt": caption})
    return folder, CAPTIONED


def trl_messages(samples, folder, corpus):
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
                {"role": "assistant", "content": [{"type": "text", "text": caption}]},
            ],
            "images": [Image.open(io.BytesIO(picture))],
        }
        for picture, caption in samples
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    return folder / "saved", None


def finevision_texts(samples, folder, corpus):
    rows = [
        {"images": [Image.open(io.BytesIO(picture))], "texts": [{"user": QUESTION, "assistant": caption}]}
        for picture, caption in samples
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    return folder, None


def llava_json(samples, folder, corpus):
    rows = []
    for number, (picture, caption) in enumerate(samples):
        (folder / f"{number}.png").write_bytes(picture)
        said = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": caption}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": said})
    (folder / "llava.json").write_text(json.dumps(rows))
    return folder / "llava.json", None


FORMATS = [finecap, image_folder, captions_csv, webdataset_tar, trl_messages, finevision_texts, llava_json]


@pytest.mark.slow
@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.__name__)
def test_two_steps_of_a_whole_training(samples, nano_corpus, tmp_path, made):
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    data, mixture = made(samples, folder, nano_corpus)
    flags = {
        **SMALLEST,
        "data": data,
        "output_dir": out,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "max_length": 1024,
        **({"mixture": json.dumps(mixture)} if mixture else {}),
    }
    assert main([part for key, value in flags.items() for part in (f"--{key}", str(value))]) == 0
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["trained"]["steps"] == 2
    assert receipt["trained"]["samples"] >= 4
    assert receipt["data"]["records"] in (len(samples), 48, None)
    assert receipt["skipped"] == 0
    curve = json.loads((out / "training_curve.json").read_text())
    assert len(curve) == 2
    assert all(0 < entry["loss"] < 10 for entry in curve)


@pytest.mark.slow
def test_data_of_which_nothing_can_be_asked_ends_with_a_clear_word(samples, nano_corpus, tmp_path):
    data, _ = image_folder(samples, tmp_path, nano_corpus)
    flags = {**SMALLEST, "data": data, "output_dir": tmp_path / "out", "max_steps": 2, "mixture": '{"qa": 1}'}
    with pytest.raises(SystemExit, match="every row was left out"):
        main([part for key, value in flags.items() for part in (f"--{key}", str(value))])
