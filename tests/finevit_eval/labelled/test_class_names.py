"""Names of classes come from where people have them; ImageNet's reassessed labels go by the pictures' own numbers."""

import json

import pytest

from finevit_eval.labelled.class_names import class_names, real_labels
from finevit_eval.labelled.pictures_by_class import LabelledPicture, LabelledSplit

WORDNET = ["n01440764", "n01443537", "n01484850"]
FISH = ["tench", "goldfish", "great white shark"]
KERAS = ["tench", "goldfish", "great_white_shark"]


def split(classes, named=False):
    return LabelledSplit([], classes, named)


@pytest.mark.parametrize("classes", [WORDNET, ["0", "1", "2"]])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.json", json.dumps(FISH)),
        ("classes.json", json.dumps({str(at): one for at, one in enumerate(zip(WORDNET, KERAS, strict=True))})),
        ("classes.json", json.dumps(dict(zip(WORDNET, FISH, strict=True)))),
        ("classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in zip(WORDNET, FISH, strict=True))),
        ("classnames.txt", "\n".join(FISH)),
    ],
)  # fmt: skip
def test_every_published_list_names_wordnet_ids_and_numbers(classes, file, content, tmp_path):
    (tmp_path / file).write_text(content)
    assert class_names(tmp_path, split(classes)) == FISH


def test_a_part_of_the_classes_is_named_by_id_and_not_by_place(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(dict(zip(WORDNET, FISH, strict=True))))
    assert class_names(tmp_path, split(WORDNET[1:])) == FISH[1:]
    (tmp_path / "classes.json").write_text(json.dumps(FISH))
    with pytest.raises(ValueError, match=r"'n01443537' .* has no name"):
        class_names(tmp_path, split(WORDNET[1:]))


def test_without_a_list_the_datas_own_names_are_taken(tmp_path):
    assert class_names(tmp_path, split(["hot_dog", "pizza"])) == ["hot dog", "pizza"]
    assert class_names(tmp_path, split(["0", "1"], named=True)) == ["0", "1"]
    for classes in (WORDNET, ["0", "1"]):
        with pytest.raises(ValueError, match=r"no model reads; give their names in .*classes.json"):
            class_names(tmp_path, split(classes))


def picture(number):
    return LabelledPicture(f"val/n01440764/ILSVRC2012_val_{number:08d}.JPEG", 0, bytes)


def test_reassessed_labels_go_by_the_number_in_the_files_name(tmp_path):
    classes = [str(number) for number in range(1000)]
    assert real_labels(tmp_path, [picture(3)], classes) is None
    (tmp_path / "real.json").write_text(json.dumps([[1], [], [7, 9]]))
    assert real_labels(tmp_path, [picture(3), picture(1), picture(2)], classes) == [{7, 9}, {1}, set()]
    with pytest.raises(ValueError, match="is about ImageNet's validation set"):
        real_labels(tmp_path, [picture(3)], classes[:10])
    with pytest.raises(ValueError, match="is about ImageNet's validation set"):
        real_labels(tmp_path, [LabelledPicture("test/7", 0, bytes)], classes)
