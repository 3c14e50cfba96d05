"""Each protocol gives the pictures and texts that its authors' loader gives, from a folder as they publish it."""

import json

import pytest

from finevit_eval.retrieval.protocols.table import PROTOCOLS
from finevit_eval.retrieval.published_sets import read_pool
from finevit_eval.suite import EVALUATIONS
from tests.support.published_sets import WRITERS

# Of six pictures: files in order, and all texts of the picture with number 4.
EXPECTED = {
    "dci": (
        [f"densely_captioned_images/photos/sa_{n}.jpg" for n in range(6)],
        ["A Flat plane. No 4. It is of. one colour. Shade 4"],
    ),
    "dci_extra": (
        [f"densely_captioned_images/photos/sa_{n}.jpg" for n in range(6)],
        ["it is of\none colour. shade 4."],
    ),
    "docci": ([f"images/test_0000{n}.jpg" for n in range(6)], ["A plane of shade 4. It shows shade 4."]),
    "docci_sentences": (
        [f"images/test_0000{n}.jpg" for n in range(6)],
        ["A plane of shade 4", "It shows shade 4"],
    ),
    "urban1k": ([f"image/{n}.jpg" for n in range(6)], ["A street of shade 4"]),
    "iiw": (
        [
            *("docci/aar_0.jpg", "docci/aar_3.jpg", "docci_aar/aar_1.jpg", "docci_aar/aar_4.jpg"),
            *("dci/sa_2.jpg", "dci/sa_5.jpg"),
        ],
        ["A plane. It has shade 4"],
    ),
    "share4v_1k": ([f"sam/images/sa_{n}.jpg" for n in range(6)], ["All is shade 4"]),
    "share4v_10k": ([f"sam/images/sa_{n}.jpg" for n in range(6)], ["All is shade 4"]),
    "coco": (
        [f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(6)],
        ["A view of shade 4", "Shade  4.", "All in shade 4"],
    ),
    "coco2017": (
        [f"val2017/{n:012d}.jpg" for n in (5, 4, 3, 2, 1, 0)],
        [f"Text {place} of shade 4" for place in range(5)],
    ),
    "flickr30k": (
        [f"flickr30k-images/{n}.jpg" for n in range(6)],
        ["A view of shade 4", "Shade  4.", "All in shade 4"],
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pictures_and_texts_are_those_of_the_authors_loader(name, tmp_path):
    pool = read_pool(name, WRITERS[PROTOCOLS[name].suite](tmp_path, 6))
    files, texts = EXPECTED[name]
    assert [picture.relative_to(tmp_path).as_posix() for picture, _ in pool] == files
    of_four = next(place for place, file in enumerate(files) if file.removesuffix(".jpg").endswith("4"))
    assert pool[of_four][1] == texts


@pytest.mark.parametrize("name", PROTOCOLS)
def test_another_folder_is_refused_with_the_layout(name, tmp_path):
    with pytest.raises(ValueError, match="is missing; --data must be the folder of"):
        read_pool(name, tmp_path)


def test_a_missing_picture_is_refused_because_the_pool_would_be_another(tmp_path):
    WRITERS["docci"](tmp_path, 6)
    (tmp_path / "images" / "test_00002.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 pictures are missing, .*test_00002.jpg first; see DOCCI"):
        read_pool("docci", tmp_path)


def test_rows_of_another_form_and_what_is_no_json_are_refused(tmp_path):
    path = tmp_path / "docci_descriptions.jsonlines"
    path.write_text(json.dumps({"split": "test", "text": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"rows of another form \(KeyError\('image_file'\)\); expected DOCCI"):
        read_pool("docci", tmp_path)
    path.write_text("{\n")
    with pytest.raises(ValueError, match="a line that is no JSON"):
        read_pool("docci", tmp_path)
    (tmp_path / "dataset_coco.json").write_text("no")
    with pytest.raises(ValueError, match="is no JSON"):
        read_pool("coco", tmp_path)


def test_of_sharegpt4v_the_first_rows_count(tmp_path, monkeypatch):
    WRITERS["share4v"](tmp_path, 6)
    path = tmp_path / "share-captioner_coco_lcs_sam_1246k_1107.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[number % 6] for number in range(1200)]))
    assert (len(read_pool("share4v_1k", tmp_path)), len(read_pool("share4v_10k", tmp_path))) == (1000, 1200)
    (tmp_path / "share4v_sam_10k.json").write_text(json.dumps(rows[:3]))
    assert len(read_pool("share4v_10k", tmp_path)) == 3


def test_a_limit_draws_pictures_with_all_of_their_texts(tmp_path):
    WRITERS["flickr30k"](tmp_path, 20)
    whole, drawn, again, other = (
        read_pool("flickr30k", tmp_path, limit, seed) for limit, seed in ((None, 0), (5, 0), (5, 0), (5, 1))
    )
    assert drawn == again != other
    assert len(drawn) == 5
    assert all(one in whole for one in drawn)


def test_each_protocol_is_measured_both_ways():
    listed = {name for name, item in EVALUATIONS.items() if item.suite in WRITERS}
    assert listed == {f"{name}_{way}" for name in PROTOCOLS for way in ("t2i", "i2t")}
    assert set(WRITERS) == {protocol.suite for protocol in PROTOCOLS.values()}
    assert PROTOCOLS["iiw"].pictures == 400 + 112 + 100
    assert PROTOCOLS["dci"].pictures == 7599 + 98 + 108
