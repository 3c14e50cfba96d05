"""Boxes against texts: an oracle of colours gets 1, shuffled or blind chance; random models equal brute force."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from finevit_cli import main
from finevit_eval.embedder import Embedder
from finevit_eval.kept import KEPT_FILE
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_eval.shown import kept_pictures, pictures_file
from tests.finevit_eval.regions.conftest import COLOURS, LEFT, RIGHT, two_rectangles, xywh
from tests.support.report_pictures import lacks_pictures

FG_OVD = ["fgovd_hard", "fgovd_trivial"]


def colour_vectors(colours):
    return torch.nn.functional.normalize(torch.tensor(np.stack(colours), dtype=torch.float32) + 1, dim=-1)


@pytest.fixture
def oracle(monkeypatch):
    """Make every loaded model see the mean colour of a picture, and read a colour's name in a text."""

    def texts(self, texts):
        return colour_vectors([next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts])

    def prepare(self, images):
        return {"colours": torch.tensor(np.stack([np.asarray(image).mean((0, 1)) for image in images]))}

    monkeypatch.setattr(Embedder, "prepare", prepare)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: colour_vectors(inputs["colours"]))
    monkeypatch.setattr(Embedder, "texts", texts)


def samples(folder, name):
    return [json.loads(line) for line in (folder / f"samples_{name}.jsonl").read_text().splitlines()]


def test_an_oracle_chooses_every_text_and_class_by_the_crop(oracle, siglip_dir, coco_dir, tmp_path):
    tasks = evaluate(siglip_dir, coco_dir, tmp_path / "fgovd", FG_OVD)["tasks"]
    for name in FG_OVD:
        assert (tasks[name]["n"], tasks[name]["score"]) == (24, 1.0)
        assert tasks[name]["controls"]["chance"] == pytest.approx(1 / 11)
        assert tasks[name]["controls"]["shuffled"] < 0.6  # four colours, so that others' boxes are often right
    results = evaluate(siglip_dir, coco_dir, tmp_path / "classes", ["box_classes"])
    assert lacks_pictures(tmp_path / "fgovd") == lacks_pictures(tmp_path / "classes") == {}
    entry = results["tasks"]["box_classes"]
    assert (entry["n"], entry["score"], entry["mean_per_class"]) == (24, 1.0, 1.0)
    assert entry["ap"] == pytest.approx(1.0)
    assert entry["controls"]["chance"] == 0.25
    assert entry["controls"]["shuffled"] < 0.6
    assert results["receipt"]["regions"] == "crops"
    one = samples(tmp_path / "classes", "box_classes")[0]
    assert one["prediction"] == one["truth"]
    assert one["box"] == list(LEFT)
    assert one["group"] in kept_pictures(pictures_file(tmp_path / "classes", "box_classes"))


def test_a_blind_oracle_falls_to_chance(oracle, siglip_dir, coco_dir, tmp_path):
    settings = Settings(blind=True)
    fgovd = evaluate(siglip_dir, coco_dir, tmp_path / "fgovd", ["fgovd_hard"], settings)["tasks"]["fgovd_hard"]
    classes = evaluate(siglip_dir, coco_dir, tmp_path / "classes", ["box_classes"], settings)["tasks"]["box_classes"]
    assert fgovd["score"] < 0.4  # grey is white's direction
    assert classes["score"] == classes["controls"]["shuffled"]
    assert classes["ap"] < 0.5


def boxes_of(coco_dir):
    """Each line of FG-OVD with its picture and box."""
    for line in (coco_dir / "fgovd" / "1_attributes_llava.jsonl").read_text().splitlines():
        row = json.loads(line)
        box = LEFT if row["bbox"] == xywh(LEFT) else RIGHT
        yield row, Image.open(coco_dir / row["img_path"]).convert("RGB"), box


def by_hand(embedder, picture, box):
    """One picture and one box at a time, straight through the model."""
    if not embedder.reads_regions:
        return embedder.images([picture.crop(box)])[0]
    inputs = embedder.processor(images=[picture], return_tensors="pt")
    with torch.inference_mode():
        hidden = embedder.model.get_image_features(**inputs).last_hidden_state
        sizes = torch.tensor([[picture.height, picture.width]])
        features = embedder.model.get_region_features(
            hidden, inputs["image_grid_thw"], torch.tensor([box]).float(), torch.tensor([0]), sizes
        )
    return torch.nn.functional.normalize(features[0], dim=-1)


@pytest.mark.parametrize("model", ["dual_dir", "siglip_dir"])
def test_scores_of_a_random_model_are_those_by_hand(model, coco_dir, tmp_path, request):
    folder = request.getfixturevalue(model)
    results = evaluate(folder, coco_dir, tmp_path / "fgovd", ["fgovd_hard"], Settings(batch_size=5))
    classes = evaluate(folder, coco_dir, tmp_path / "classes", ["box_classes"], Settings(batch_size=5))["tasks"]
    embedder = Embedder.from_pretrained(folder)
    names = embedder.texts([f"a photo of a {colour} box." for colour in COLOURS])
    chosen, right = [], []
    for row, picture, box in boxes_of(coco_dir):
        vector = by_hand(embedder, picture, box)
        texts = [*row["pos_expression"], *row["neg_expression"]]
        chosen.append(texts[int((embedder.texts(texts) @ vector).argmax())])
        right.append(list(COLOURS)[int((names @ vector).argmax())] in row["pos_expression"][0])
    assert [sample["prediction"] for sample in samples(tmp_path / "fgovd", "fgovd_hard")] == chosen
    hits = [text.startswith("A ") for text in chosen]
    assert results["tasks"]["fgovd_hard"]["score"] == pytest.approx(np.mean(hits))
    assert classes["box_classes"]["score"] == pytest.approx(np.mean(right))
    assert results["receipt"]["regions"] == ("region features" if model == "dual_dir" else "crops")


def test_a_picture_is_seen_once_for_all_of_its_boxes(dual_dir, coco_dir, tmp_path, monkeypatch):
    seen = []
    prepare = Embedder.prepare
    monkeypatch.setattr(Embedder, "prepare", lambda self, images: seen.extend(images) or prepare(self, images))
    evaluate(dual_dir, coco_dir, tmp_path, ["fgovd_hard"])
    assert len(seen) == 12


def test_a_killed_run_goes_on_where_it_stopped(siglip_dir, coco_dir, tmp_path, monkeypatch):
    whole = evaluate(siglip_dir, coco_dir, tmp_path / "whole", ["box_classes"], Settings(batch_size=4))["tasks"]
    embedded, encode = [], Embedder.encode

    def dying(self, inputs):
        if len(embedded) == 8:
            raise KeyboardInterrupt
        embedded.extend(inputs["pixel_values"])
        return encode(self, inputs)

    monkeypatch.setattr(Embedder, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(siglip_dir, coco_dir, tmp_path / "killed", ["box_classes"], Settings(batch_size=4))
    assert (tmp_path / "killed" / KEPT_FILE).is_file()
    counted = []
    monkeypatch.setattr(
        Embedder, "encode", lambda self, inputs: counted.extend(inputs["pixel_values"]) or encode(self, inputs)
    )
    again = evaluate(siglip_dir, coco_dir, tmp_path / "killed", ["box_classes"], Settings(batch_size=4))["tasks"]
    assert len(counted) == 24 - 8
    assert again == whole


def test_a_missing_picture_is_skipped_and_counted(oracle, siglip_dir, coco_dir, tmp_path):
    import shutil

    shutil.copytree(coco_dir, tmp_path / "coco")
    (tmp_path / "coco" / "val2017" / f"{3:012d}.png").unlink()
    results = evaluate(siglip_dir, tmp_path / "coco", tmp_path / "out", ["fgovd_hard"])
    assert results["tasks"]["fgovd_hard"]["n"] == 22
    assert len(results["receipt"]["skipped"]) == 2


def test_pictures_named_as_lvis_names_them_are_found(oracle, siglip_dir, coco_dir, tmp_path):
    (tmp_path / "lvis" / "val2017").mkdir(parents=True)
    whole = json.loads((coco_dir / "annotations" / "instances_val2017.json").read_text())
    for image in whole["images"]:
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"
        two_rectangles(image["id"])[0].save(tmp_path / "lvis" / "val2017" / name)
    whole["annotations"] = [
        {key: value for key, value in one.items() if key != "iscrowd"}
        for one in whole["annotations"]
        if not one["iscrowd"]
    ]
    (tmp_path / "lvis" / "lvis_v1_val.json").write_text(json.dumps(whole))
    results = evaluate(siglip_dir, tmp_path / "lvis", tmp_path / "out", ["box_classes"], Settings(limit=10))
    assert (results["tasks"]["box_classes"]["n"], results["tasks"]["box_classes"]["score"]) == (10, 1.0)


def test_another_layout_is_refused_in_one_sentence(siglip_dir, refcoco_dir, coco_dir, tmp_path, capsys):
    for name, expected in (("fgovd_hard", "FG-CLIP"), ("box_classes", "COCO or LVIS")):
        with pytest.raises(ValueError, match=expected):
            evaluate(siglip_dir, refcoco_dir, tmp_path, [name])
    with pytest.raises(ValueError, match=r"0 files 2_attributes\*.jsonl"):
        evaluate(siglip_dir, coco_dir, tmp_path, ["fgovd_medium"])
    arguments = ["--model", siglip_dir, "--data", str(coco_dir), "--out", str(tmp_path)]
    assert main(["eval", "refcoco", *arguments]) == 2
    assert "refcoco needs a vision-language model" in capsys.readouterr().err
