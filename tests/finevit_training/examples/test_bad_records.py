"""One bad record never ends a run: it is skipped with id and reason, and replaced; too many of them do."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.bad_records import ENOUGH_TRIED, BadRecordShare, UnusableData
from modeling_finevit.image_inputs import BROKEN_IMAGE_ERRORS
from tests.support.training_data import ids_of, loader_of, reader_of, write_records

MIXTURE = {**dict.fromkeys(DENSE_TASKS, 1.0), "qa": 9}


def encoded(size=(112, 56), file_format="PNG", **options):
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, file_format, **options)
    return content.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(file_format="JPEG", exif=exif)


def broken_tiff():
    """A TIFF whose second directory entry has a value shorter than its type."""
    data = bytearray(encoded(file_format="TIFF"))
    return bytes(data[: len(data) // 2])


# name: (changes to a record of a 112x56 picture, the reason that is expected)
BAD = {
    "no picture": ({"image": None}, "no picture"),
    "picture elsewhere": ({"image": {"bytes": None, "path": "a.png"}}, "unreadable"),
    "text as picture": ({"image": {"bytes": b"no picture", "path": None}}, "not a picture"),
    "cut off PNG": ({"image": {"bytes": encoded()[:900], "path": None}}, "truncated"),
    "cut off JPEG": ({"image": {"bytes": encoded(file_format="JPEG")[:900], "path": None}}, "truncated"),
    "cut off GIF": ({"image": {"bytes": encoded(file_format="GIF")[:200], "path": None}}, "cannot be used"),
    "cut off TIFF": ({"image": {"bytes": broken_tiff(), "path": None}}, "cannot be used"),
    "broken PNG chunk": (
        {"image": {"bytes": encoded()[:60] + b"\0" * 50 + encoded()[60:], "path": None}},
        "cannot be used",
    ),
    "bad zlib stream": (
        {"image": {"bytes": png(112, 56, png_chunk(b"IDAT", b"no zlib")), "path": None}},
        "cannot be used",
    ),
    "pixel bomb": (
        {"image": {"bytes": png(20_000, 20_000, png_chunk(b"IDAT", zlib.compress(b"0"))), "path": None}},
        "pixel bomb",
    ),
    "thin picture": (
        {"image": {"bytes": encoded((3000, 4)), "path": None}, "width": 3000, "height": 4},
        "aspect ratio",
    ),
    "wrong size": ({"width": 1000, "height": 1000}, "112x56 upright, and not 1000x1000"),
    "EXIF rotation": ({"image": {"bytes": rotated(), "path": None}}, "56x112 upright, and not 112x56"),
    "no license": ({"license": ""}, "license"),
    "no box": ({"regions": [{"bbox": None, "kind": "object", "label": "a", "caption": "a cat"}]}, "four numbers"),
    "half a box": (
        {"regions": [{"bbox": [1, None, 3, 4], "kind": "object", "label": "a", "caption": "a cat"}]},
        "expected float",
    ),
    "region missing": ({"regions": [None]}, "expected its fields"),
    **{
        f"grounding answer {answer[:20]!r}": (
            {"qa": [{"question": "the cat", "answers": [answer], "kind": "grounding"}]},
            "JSON" if "no" in answer or answer.startswith("[[") else "four numbers|inside",
        )
        for answer in ("no JSON", "[1,2,null,4]", "null", "[" * 5000, "[0,0,1e999,5]", "[0,0,1" + "0" * 400 + ",5]")
    },
    "no question": ({"qa": [{"question": None, "answers": ["a"], "kind": "doc"}]}, "expected str"),
    "no answers": ({"qa": [{"question": "a?", "answers": None, "kind": "doc"}]}, "at least one answer"),
    "nothing to ask": ({"qa": [], "regions": [], "global_caption": None}, "nothing can be asked"),
}


def good_record(**changes):
    return {
        "id": "good",
        "image": {"bytes": encoded(), "path": None},
        "width": 112,
        "height": 56,
        "source": "test",
        "license": "cc0-1.0",
        "split": "train",
        "global_caption": "Noise.",
        "captioner": None,
        "captions": [],
        "regions": [],
        "qa": [{"question": "What is it?", "answers": ["noise"], "kind": "doc"}],
        "provenance": None,
        **changes,
    }


@pytest.fixture
def run_of(processor, tmp_path):
    """Reads records once: the batches, and what was left out."""

    def run(records, steps=None, **flags):
        folder = write_records(records, tmp_path / f"{len(list(tmp_path.iterdir()))}")
        skipped = []
        reader = reader_of([folder], processor, **{"mixture": MIXTURE, "max_length": 2048, **flags})
        loader = loader_of(reader, steps=steps, on_rows=lambda tried, rows: skipped.extend(rows))
        return list(loader), skipped

    return run


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_skipped_with_id_and_reason_and_replaced(run_of, name):
    changes, reason = BAD[name]
    records = [good_record(id=f"good {i}") for i in range(9)]
    batches, skipped = run_of([*records, good_record(id="bad", **changes)])
    assert set(ids_of(batches)) == {record["id"] for record in records}
    assert {skip.id for skip in skipped} == {"bad"}
    assert any(re.search(reason, skip.reason) for skip in skipped), skipped
    by_its_picture = any(
        skip.reason.startswith(("picture cannot be used", "no picture", "unreadable")) for skip in skipped
    )
    assert len(ids_of(batches)) == 9 + by_its_picture, "a planned sample is replaced"
    assert ids_of(batches) == ids_of(run_of([*records, good_record(id="bad", **changes)])[0])


def test_a_picture_is_not_decoded_before_its_size_is_looked_at(run_of, processor, monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(processor.image_processor, "max_image_pixels", 10_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.size) or load(self))
    large = good_record(id="bad", image={"bytes": encoded((300, 300)), "path": None}, width=300, height=300)
    _, skipped = run_of([large, *(good_record(id=f"good {i}") for i in range(3))])
    assert any("pixel bomb" in skip.reason for skip in skipped)
    assert (300, 300) not in decoded
    assert (112, 56) in decoded


@pytest.mark.parametrize("error", BROKEN_IMAGE_ERRORS)
def test_whatever_a_decoder_raises_for_a_broken_file_is_the_record_s_fault(run_of, monkeypatch, error):
    load = ImageFile.ImageFile.load

    def decode(image):
        if image.width == 84:
            raise error("broken")
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    broken = good_record(id="bad", image={"bytes": encoded((84, 56)), "path": None}, width=84)
    batches, skipped = run_of([broken, *(good_record(id=f"good {i}") for i in range(3))])
    assert "bad" not in ids_of(batches)
    assert ("bad", f"picture cannot be used: corrupt: {error.__name__}: broken") == skipped[0][:2]


def test_a_bug_raises_at_once(run_of, monkeypatch):
    def broken(turns):
        raise TypeError("a bug")

    monkeypatch.setattr("finevit_training.examples.conversation.messages", broken)
    with pytest.raises(TypeError, match="a bug"):
        run_of([good_record()])


def test_too_many_bad_records_stop_the_run_and_name_the_reasons():
    share = BadRecordShare(0.4)
    share.add(ENOUGH_TRIED, ["picture cannot be used: another size: 3x3"] * 80)
    with pytest.raises(ValueError, match=r"81 of the 200 records read so far .*80 x picture .*max_bad_share 40%"):
        share.add(0, ["no picture: nothing"])
    small = BadRecordShare(0.4, records=31)
    small.add(30, ["a: b"] * 30)
    with pytest.raises(UnusableData, match="30 of the 31 records"):
        small.add(1, [])
    early = BadRecordShare(0.4)
    early.add(ENOUGH_TRIED - 1, ["a: b"] * 100)


def test_missing_picture_files_are_said_to_begin_in_another_folder():
    missing, broken = "unreadable: No such file or directory: coco/1.jpg", "unreadable: Permission denied: coco/1.jpg"
    with pytest.raises(UnusableData, match="`image_folder`; name the folder that they begin in"):
        BadRecordShare(0.4, records=3).add(3, [missing, missing, broken])
    with pytest.raises(UnusableData) as refused:
        BadRecordShare(0.4, records=3).add(3, [missing, broken, broken])
    assert "image_folder" not in str(refused.value)


def test_too_many_bad_records_stop_a_training(trainer_for, records, tmp_path):
    spoilt = [{**record, "id": f"{i} {record['id']}", "license": ""} for i in range(6) for record in records]
    folder = write_records([*spoilt, *records], tmp_path / "spoilt")
    trainer = trainer_for(data=folder, max_bad_share=0.5, max_steps=3)
    with pytest.raises(ValueError, match=r"x record breaks the rules.*max_bad_share"):
        trainer.train()
    patient = trainer_for(data=folder, max_bad_share=0.9)
    patient.train()
    assert len(patient.skipped) == len(spoilt)


def test_a_pack_whose_pictures_are_all_broken_is_an_empty_row(run_of, monkeypatch):
    broken = [good_record(id=f"bad {i}", image={"bytes": b"nothing", "path": None}) for i in range(4)]
    batches, skipped = run_of(broken)
    assert ids_of(batches) == []
    assert len(batches) == 1
    assert {skip.id for skip in skipped} == {f"bad {i}" for i in range(4)}


def test_an_empty_row_is_trained_on_without_harm(trainer_for, records, tmp_path):
    broken = [{**record, "image": {"bytes": b"nothing", "path": None}} for record in records]
    trainer = trainer_for(data=write_records(broken, tmp_path / "broken"), max_steps=2, max_bad_share=1.0)
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == [0.0, 0.0]
