"""One bad record never ends a run: it is skipped with id and reason, and replaced; too many of them do."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.order import SampleKey
from finevit_training.data.source import RecordDataset
from finevit_training.examples.conversation import SFTCollator
from modeling_finevit.image_inputs import BROKEN_IMAGE_ERRORS

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
    "no picture": ({"image": None}, "no embedded bytes"),
    "picture elsewhere": ({"image": {"bytes": None, "path": "a.png"}}, "no embedded bytes"),
    "text as picture": ({"image": {"bytes": b"no picture", "path": None}}, "not a picture"),
    "cut off PNG": ({"image": {"bytes": encoded()[:900], "path": None}}, "truncated"),
    "cut off JPEG": ({"image": {"bytes": encoded(file_format="JPEG")[:900], "path": None}}, "truncated"),
    "cut off GIF": ({"image": {"bytes": encoded(file_format="GIF")[:200], "path": None}}, "decoded"),
    "cut off TIFF": ({"image": {"bytes": broken_tiff(), "path": None}}, "decoded"),
    "broken PNG chunk": ({"image": {"bytes": encoded()[:60] + b"\0" * 50 + encoded()[60:], "path": None}}, "decoded"),
    "bad zlib stream": (
        {"image": {"bytes": png(112, 56, png_chunk(b"IDAT", b"no zlib")), "path": None}},
        "decoded",
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
    "no size": ({"width": None}, "width and height"),
    "no license": ({"license": ""}, "license"),
    "no box": ({"regions": [{"bbox": None, "kind": "object", "label": "a", "caption": "a cat"}]}, "four numbers"),
    "half a box": (
        {"regions": [{"bbox": [1, None, 3, 4], "kind": "object", "label": "a", "caption": "a cat"}]},
        "four numbers",
    ),
    "region missing": ({"regions": [None]}, "four numbers"),
    **{
        f"grounding answer {answer[:20]!r}": (
            {"qa": [{"question": "the cat", "answers": [answer], "kind": "grounding"}]},
            "JSON" if "no" in answer or answer.startswith("[[") else "four numbers|inside",
        )
        for answer in ("no JSON", "[1,2,null,4]", "null", "[" * 5000, "[0,0,1e999,5]", "[0,0,1" + "0" * 400 + ",5]")
    },
    "no question": ({"qa": [{"question": None, "answers": ["a"], "kind": "doc"}]}, "must not be empty"),
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


class Records(RecordDataset):
    """Records from a list, whose pictures need not be what a `datasets.Image` column takes."""

    def __init__(self, records):
        self.records = records


def samples_of(records):
    dataset = Records(records)
    return [dataset[SampleKey(0, index, 0.0)] for index in range(len(records))]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_skipped_with_id_and_reason_and_replaced(processor, name):
    changes, reason = BAD[name]
    bad = good_record(id="bad", **changes)
    bad_sample, *_ = samples_of([bad, *(good_record(id=f"good {i}") for i in range(9))])
    batch = SFTCollator(processor, mixture=MIXTURE)([bad_sample, bad_sample])
    assert len(batch["ids"]) == len(batch["input_ids"]) == 2
    assert all(record_id.startswith("good") for record_id in batch["ids"])
    assert batch["ids"][0] == batch["ids"][1], "the stand-in follows from the key alone"
    assert {record_id for record_id, _ in batch["skipped"]} == {"bad"}
    assert any(re.search(reason, text) for _, text in batch["skipped"]), batch["skipped"]


def test_a_picture_is_not_decoded_before_its_size_is_looked_at(processor, monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(processor.image_processor, "max_image_pixels", 10_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.size) or load(self))
    large = good_record(image={"bytes": encoded((300, 300)), "path": None}, width=300, height=300)
    batch = SFTCollator(processor, mixture=MIXTURE)(samples_of([large, *[good_record()] * 3])[:1])
    assert "pixel bomb" in batch["skipped"][0][1]
    assert (300, 300) not in decoded
    assert (112, 56) in decoded


@pytest.mark.parametrize("error", BROKEN_IMAGE_ERRORS)
def test_whatever_a_decoder_raises_for_a_broken_file_is_the_record_s_fault(processor, monkeypatch, error):
    load = ImageFile.ImageFile.load

    def decode(image):
        if image.width == 84:
            raise error("broken")
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    broken = good_record(id="bad", image={"bytes": encoded((84, 56)), "path": None}, width=84)
    batch = SFTCollator(processor, mixture=MIXTURE)(samples_of([broken, *[good_record()] * 3])[:1])
    assert batch["ids"] == ["good"]
    assert batch["skipped"][0] == ("bad", f"picture cannot be decoded: corrupt: {error.__name__}: broken")


def test_a_bug_raises_at_once(processor, monkeypatch):
    def broken(turns):
        raise TypeError("a bug")

    monkeypatch.setattr("finevit_training.examples.conversation.messages", broken)
    with pytest.raises(TypeError, match="a bug"):
        SFTCollator(processor, mixture=MIXTURE)(samples_of([good_record()]))


def test_too_many_bad_records_stop_the_run_and_name_the_reasons(processor):
    records = [good_record(id=f"bad {i}", width=i + 200) for i in range(60)] + [good_record()] * 40
    collator = SFTCollator(processor, mixture=MIXTURE, max_bad_share=0.4, bad_share_after=50)
    with pytest.raises(ValueError, match=r"records read so far .*x picture has another size.*max_bad_share"):
        [collator([sample]) for sample in samples_of(records)]
    patient = SFTCollator(processor, mixture=MIXTURE, max_bad_share=0.9, bad_share_after=50)
    assert sum(len(patient([sample])["ids"]) for sample in samples_of(records)) == 100


def test_records_that_only_do_not_fit_the_mixture_never_stop_it(processor):
    mute = [good_record(id=f"mute {i}", qa=[], global_caption=None) for i in range(90)]
    collator = SFTCollator(processor, mixture=MIXTURE, max_bad_share=0.0, bad_share_after=1)
    for sample in samples_of(mute + [good_record()] * 10)[:50]:
        assert collator([sample])["ids"] == ["good"]


def test_a_corpus_in_which_nothing_can_be_asked_says_so(processor):
    mute = samples_of([good_record(qa=[], global_caption=None)] * 3)
    with pytest.raises(ValueError, match=r"nothing can be asked.*mixture whose tasks fit"):
        SFTCollator(processor, mixture=MIXTURE)(mute)


def test_stand_ins_are_the_same_after_a_resume_and_in_any_worker(processor, records):
    dataset = RecordDataset(records)
    mixture = {"qa": 0, "transcribe": 1}  # three records of four hold nothing to transcribe or little
    keys = [SampleKey(epoch, index, 0.0) for epoch in (0, 1) for index in range(24)]

    def ids(keys, size):
        collator = SFTCollator(processor, mixture=mixture, seed=5)
        batches = [collator([dataset[key] for key in keys[i : i + size]]) for i in range(0, len(keys), size)]
        assert any(batch["skipped"] for batch in batches)
        return [record_id for batch in batches for record_id in batch["ids"]]

    whole = ids(keys, 8)
    assert len(whole) == 48
    assert ids(keys, 1) == whole
    assert ids(keys[16:], 4) == whole[16:]
