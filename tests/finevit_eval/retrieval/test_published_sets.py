"""Retrieval over published test sets: an oracle gets 1, shuffled and blind chance, the score is brute force's."""

import json

import pytest
import torch
from PIL import Image

from finevit_cli import main
from finevit_eval.embedder import Embedder
from finevit_eval.result import Settings
from finevit_eval.retrieval.protocols.table import PROTOCOLS
from finevit_eval.run import evaluate
from tests.support.picture_text_models import save_dual, save_siglip
from tests.support.published_sets import WRITERS
from tests.support.report_pictures import lacks_pictures

PICTURES = 12
SETTINGS = Settings(batch_size=8)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Suite -> its folder."""
    return {suite: write(tmp_path_factory.mktemp(suite), PICTURES) for suite, write in WRITERS.items()}


@pytest.fixture
def oracle(monkeypatch):
    """Make every loaded model see the shade of a picture and read the last number of a text."""

    def embedding(shades):
        angle = torch.tensor(shades, dtype=torch.float32) * 0.1
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def numbers(texts):
        return [int("".join(letter if letter.isdigit() else " " for letter in text).split()[-1]) for text in texts]

    def shades(self, images):
        return {"shades": torch.tensor([image.getpixel((0, 0))[0] / 8 for image in images])}

    monkeypatch.setattr(Embedder, "prepare", shades)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: embedding(inputs["shades"].tolist()))
    monkeypatch.setattr(Embedder, "texts", lambda self, texts: embedding(numbers(texts)))


@pytest.mark.parametrize("suite", WRITERS)
def test_an_oracle_finds_everything_and_nothing_when_shuffled(suite, oracle, siglip, folders, tmp_path):
    results = evaluate(siglip, folders[suite], tmp_path, [suite], SETTINGS)
    assert lacks_pictures(tmp_path) == {}
    assert set(results["tasks"]) == {
        f"{name}_{way}" for name, one in PROTOCOLS.items() if one.suite == suite for way in ("t2i", "i2t")
    }
    for name, task in results["tasks"].items():
        assert (task["score"], task["r@5"], task["controls"]["shuffled"]) == (1.0, 1.0, 0.0)
        assert task["controls"]["chance"] == pytest.approx(1 / PICTURES)
        facts = results["receipt"]["tasks"][name]
        assert (facts["pictures"], facts["pictures_published"]) == (
            PICTURES,
            PROTOCOLS[name.rpartition("_")[0]].pictures,
        )


def test_a_blind_model_gets_what_chance_gives(oracle, siglip, folders, tmp_path):
    blind = evaluate(siglip, folders["flickr30k"], tmp_path, ["flickr30k"], Settings(batch_size=8, blind=True))
    assert blind["tasks"]["flickr30k_t2i"]["score"] == pytest.approx(1 / PICTURES)
    assert blind["tasks"]["flickr30k_i2t"]["score"] == pytest.approx(1 / PICTURES)


@pytest.mark.parametrize("save", [save_dual, save_siglip])
def test_several_captions_of_a_picture_count_as_clip_counts_them(save, folders, tmp_path):
    """Against the whole matrix: a caption finds its picture, a picture any of its captions."""
    model = save(tmp_path / "model")
    tasks = evaluate(model, folders["coco2017"], tmp_path / "out", ["coco2017"], SETTINGS)["tasks"]
    files = sorted((folders["coco2017"] / "val2017").iterdir(), reverse=True)
    embedder = Embedder.from_pretrained(model)
    images = torch.cat([embedder.images([Image.open(file).convert("RGB")]) for file in files])
    texts = embedder.texts([f"Text {place} of shade {int(file.stem)}" for file in files for place in range(5)])
    cosines, owners = texts @ images.T, torch.arange(PICTURES).repeat_interleave(5)
    for k, name in ((1, "score"), (5, "r@5"), (10, "r@10")):
        t2i = (cosines.topk(k).indices == owners[:, None]).any(1).double().mean()
        i2t = (owners[cosines.T.topk(k).indices] == torch.arange(PICTURES)[:, None]).any(1).double().mean()
        assert tasks["coco2017_t2i"][name] == pytest.approx(float(t2i))
        assert tasks["coco2017_i2t"][name] == pytest.approx(float(i2t))
    assert (tasks["coco2017_t2i"]["n"], tasks["coco2017_i2t"]["n"]) == (5 * PICTURES, PICTURES)
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples_coco2017_t2i.jsonl").read_text().splitlines()]
    assert [sample["id"] for sample in samples[4:7]] == [
        "val2017/000000000011.jpg/5",
        "val2017/000000000010.jpg",
        "val2017/000000000010.jpg/2",
    ]
    assert len({sample["id"] for sample in samples}) == 5 * PICTURES
    assert {sample["group"] for sample in samples} == {f"val2017/{file.name}" for file in files}


def test_a_picture_that_cannot_be_read_is_left_out_with_its_texts(oracle, siglip, tmp_path):
    data = WRITERS["docci"](tmp_path / "data", PICTURES)
    (data / "images" / "test_00003.jpg").write_bytes(b"broken")
    results = evaluate(siglip, data, tmp_path / "out", ["docci"], SETTINGS)
    assert [one.partition(":")[0] for one in results["receipt"]["skipped"]] == ["images/test_00003.jpg"]
    assert results["tasks"]["docci_sentences_t2i"]["n"] == 2 * (PICTURES - 1)
    assert results["tasks"]["docci_t2i"]["score"] == 1.0


def test_the_fingerprint_tells_protocols_of_one_folder_and_other_pictures(oracle, siglip, folders, tmp_path):
    def fingerprints(data):
        tasks = evaluate(siglip, data, tmp_path / "out", ["dci"], SETTINGS)["receipt"]["tasks"]
        return [tasks[name]["fingerprint"] for name in ("dci_t2i", "dci_i2t", "dci_extra_t2i")]

    short, i2t, extra = fingerprints(folders["dci"])
    assert short == i2t != extra
    others = WRITERS["dci"](tmp_path / "others", PICTURES)
    assert fingerprints(others) == [short, i2t, extra]
    Image.new("RGB", (60, 60)).save(others / "densely_captioned_images" / "photos" / "sa_2.jpg")
    assert fingerprints(others)[0] != short


def test_the_receipt_says_how_pictures_were_prepared(siglip, folders, tmp_path):
    receipt = evaluate(siglip, folders["urban1k"], tmp_path, ["urban1k_t2i"], SETTINGS)["receipt"]
    assert receipt["preparation"]["pictures"]["size"] == {"height": 28, "width": 28}
    assert receipt["preparation"]["texts"] == {"lower_case": True, "length": 24}


def test_another_split_is_refused(siglip, folders, tmp_path):
    with pytest.raises(ValueError, match=r"always measured on the same pictures; leave split \(val\) out"):
        evaluate(siglip, folders["docci"], tmp_path, ["docci_t2i"], Settings(split="val"))


def test_the_command_takes_a_suite(oracle, siglip, folders, tmp_path, capsys):
    assert main(["eval", "dci", "--model", siglip, "--data", str(folders["dci"]), "--out", str(tmp_path)]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "n=" in line]
    assert names == ["dci_t2i", "dci_i2t", "dci_extra_t2i", "dci_extra_i2t"]
    assert main(["eval", "dci", "--model", siglip, "--data", str(folders["docci"]), "--out", str(tmp_path)]) == 2
    assert "--data must be the folder of DCI: densely_captioned_images/" in capsys.readouterr().err
