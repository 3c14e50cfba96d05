"""Every published layout gives the same thing: pictures with the numbers of their classes."""

import io

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from finevit_eval.labelled.pictures_by_class import read_labelled
from tests.support.labelled_pictures import plain_picture, write_dataset, write_image_folder, write_objectnet

BLUE, GREEN = plain_picture((0, 0, 255)), plain_picture((0, 255, 0))


def pairs(split):
    return [(picture.id, split.classes[picture.label]) for picture in split.pictures]


def opened(picture):
    return Image.open(io.BytesIO(picture.read()))


def test_an_image_folder_has_a_folder_for_each_class_of_a_split(tmp_path):
    write_image_folder(tmp_path / "val", {"n02": [BLUE, GREEN], "n01": [GREEN]})
    write_image_folder(tmp_path / "train", {"n01": [BLUE], "n02": [BLUE]})
    (tmp_path / "val" / "n01" / "readme.txt").write_text("no picture")
    split = read_labelled(tmp_path, "val")
    assert split.classes == ["n01", "n02"]
    assert pairs(split) == [("val/n01/000.png", "n01"), ("val/n02/000.png", "n02"), ("val/n02/001.png", "n02")]
    assert opened(split.pictures[1]).convert("RGB").getpixel((3, 3)) == (0, 0, 255)


def test_a_test_set_alone_has_its_classes_at_the_top_and_numbers_count_as_numbers(tmp_path):
    write_image_folder(tmp_path, {str(number): [BLUE] for number in range(12)}, suffix="jpeg")
    split = read_labelled(tmp_path, "test")
    assert split.classes == [str(number) for number in range(12)]
    assert [picture.label for picture in split.pictures if picture.id.startswith(("2/", "10/"))] == [2, 10]


def test_of_objectnet_the_classes_of_imagenet_are_taken_and_the_frame_is_cut_off(tmp_path):
    pictures = {"Air freshener": [BLUE], "Alarm clock": [GREEN, GREEN], "Banana": [BLUE]}
    split = read_labelled(write_objectnet(tmp_path, pictures, ["Alarm clock", "Banana"]), "test")
    assert split.classes == ["Alarm clock", "Banana"]
    assert [picture.label for picture in split.pictures] == [0, 0, 1]
    cut = opened(split.pictures[0])
    assert (cut.size, cut.getcolors()) == (GREEN.size, [(40 * 30, (0, 255, 0))])


def test_of_a_dataset_the_finest_label_counts_and_pictures_without_one_do_not(tmp_path):
    labels = {"coarse": ([0, 0, 0, 0], ["animal", "thing"]), "fine": ([2, 0, -1, 1], ["cat", "dog", "eel"])}
    split = read_labelled(write_dataset(tmp_path, "test", [BLUE, GREEN, BLUE, GREEN], labels), "test")
    assert split.named
    assert pairs(split) == [("test/0", "eel"), ("test/1", "cat"), ("test/3", "dog")]
    assert [opened(picture).getpixel((0, 0)) for picture in split.pictures] == [(0, 0, 255), (0, 255, 0), (0, 255, 0)]


def test_labels_of_a_dataset_may_be_plain_numbers(tmp_path):
    rows = Dataset.from_dict({"image": [BLUE, GREEN], "label": [2, 0]})
    rows.cast_column("image", ImageFeature()).to_parquet(tmp_path / "test.parquet")
    split = read_labelled(tmp_path, "test")
    assert (split.classes, split.named) == (["0", "1", "2"], False)
    assert [picture.label for picture in split.pictures] == [2, 0]


def test_the_draw_keeps_order_and_classes_and_is_the_seeds(tmp_path):
    split = read_labelled(write_image_folder(tmp_path, {"a": [BLUE] * 9, "b": [GREEN] * 9}), "test")
    drawn = split.drawn(5, seed=3)
    assert drawn == split.drawn(5, seed=3) != split.drawn(5, seed=4)
    assert len(drawn.pictures) == 5
    assert sorted(pairs(drawn)) == pairs(drawn)
    assert drawn.classes == split.classes
    assert split.drawn(99, seed=0) is split


def test_other_data_are_refused_with_what_was_expected(tmp_path, corpus):
    write_image_folder(tmp_path / "val", {"cat": [BLUE]})
    with pytest.raises(ValueError, match=r"no split 'test' of pictures by class: expected an image folder"):
        read_labelled(tmp_path, "test")
    with pytest.raises(ValueError, match="expected an image folder"):
        read_labelled(corpus, "test")
