"""Zero-shot accuracy of random CLIP and SigLIP 2 equals brute force; an oracle gets 1, wrong pixels and names none."""

import json
import shutil
import string

import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
)

from finevit_eval.embedder import Embedder
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_eval.zero_shot.class_prompts import PROMPTS
from finevit_eval.zero_shot.run import real_accuracy
from tests.finevit_eval.zero_shot.conftest import CLASSES, shades
from tests.support.labelled_pictures import plain_picture, write_dataset
from tests.support.picture_text_models import SMALL, save_siglip
from tests.support.report_pictures import lacks_pictures

LENGTH = 48
CHARACTERS = [*string.ascii_lowercase, ".", "-"]


def save_clip(folder):
    """CLIP with letters for words."""
    pieces = ["<|startoftext|>", "<|endoftext|>", *CHARACTERS, *(f"{one}</w>" for one in CHARACTERS)]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {"vocab_size": len(pieces), "max_position_embeddings": LENGTH, **ids}
    vision = {"image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config=SMALL | text, vision_config=SMALL | vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_siglip2(folder):
    """SigLIP 2 of any aspect with letters for words."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *CHARACTERS, "▁"]
    tokenizer = Siglip2Tokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    text = {"vocab_size": len(pieces), "max_position_embeddings": LENGTH, "projection_size": 32}
    vision = {"patch_size": 14, "num_patches": 16}
    Siglip2Model(Siglip2Config(text_config=SMALL | text, vision_config=SMALL | vision)).save_pretrained(folder)
    images = Siglip2ImageProcessor(patch_size=14, max_num_patches=16)
    Siglip2Processor(images, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("siglip"))


def brute_force(folder, prompts):
    """`(18, 6)` cosines, picture by picture and text by text, with the classes of transformers alone."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    length = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    with torch.no_grad():
        columns = []
        for name in CLASSES:
            texts = [processor(text=[prompt.format(name)], **length) for prompt in prompts]
            own = [normalize(model.get_text_features(**text).pooler_output, dim=-1) for text in texts]
            columns.append(normalize(torch.cat(own).mean(dim=0), dim=0))
        images = [image for number in range(6) for image in shades(number)]
        rows = [
            model.get_image_features(**processor.image_processor(images=[one], return_tensors="pt")) for one in images
        ]
        return normalize(torch.cat([row.pooler_output for row in rows]), dim=-1) @ torch.stack(columns).T


@pytest.mark.parametrize("save", [save_clip, save_siglip2])
def test_scores_are_those_of_brute_force(save, animals, tmp_path):
    torch.manual_seed(0)
    save(tmp_path / "model")
    results = evaluate(tmp_path / "model", animals, tmp_path / "out", ["classification"], Settings(batch_size=5))
    labels = torch.arange(6).repeat_interleave(3)
    for name in ("zero_shot", "zero_shot_80"):
        cosines, entry = brute_force(tmp_path / "model", PROMPTS[name]), results["tasks"][name]
        top = cosines.topk(5).indices == labels[:, None]
        assert entry["n"] == 18
        assert entry["score"] == pytest.approx(top[:, 0].double().mean().item())
        assert entry["acc@5"] == pytest.approx(top.any(dim=1).double().mean().item())
        assert entry["mean_per_class"] == pytest.approx(entry["score"]), "classes are of one size"
        assert entry["controls"]["chance"] == pytest.approx(1 / 6)
        lines = (tmp_path / "out" / f"samples_{name}.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert [one["prediction"] for one in samples] == [CLASSES[best] for best in cosines.argmax(dim=1).tolist()]
        above = (cosines > cosines.gather(1, labels[:, None])).sum(dim=1)
        assert [one["rank"] for one in samples] == (above + 1).tolist()
        assert len(set(above.tolist())) > 3, "a model to which all names are alike would prove nothing"
        assert len(results["receipt"]["tasks"][name]["prompts"]) == len(PROMPTS[name])
    assert [one.partition(":")[0] for one in results["receipt"]["skipped"]] == ["test/ant/999.png"]


@pytest.fixture
def oracle(monkeypatch):
    """Make every model see the number of a picture's class in its red, and know the numbers of names."""

    def unit(number):
        return torch.eye(len(CLASSES))[torch.as_tensor(number)]

    def number(text):
        return next((at for at, name in enumerate(CLASSES) if f" {name}" in text), 0)

    monkeypatch.setattr(
        Embedder, "prepare", lambda self, images: {"red": torch.tensor([images[0].getpixel((0, 0))[0]])}
    )
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: unit((inputs["red"] // 40).clamp(max=5)))
    monkeypatch.setattr(Embedder, "texts", lambda self, texts: unit([number(text) for text in texts]))


def test_an_oracle_tells_every_class_and_none_by_wrong_names(oracle, siglip, animals, tmp_path):
    results = evaluate(siglip, animals, tmp_path, ["classification"])
    assert lacks_pictures(tmp_path) == {}
    for task in results["tasks"].values():
        assert (task["score"], task["mean_per_class"], task["controls"]["shuffled"]) == (1.0, 1.0, 0.0)


def test_wrong_pixels_fall_to_chance(oracle, siglip, animals, tmp_path):
    blind = evaluate(siglip, animals, tmp_path / "blind", ["zero_shot"], Settings(blind=True))
    assert blind["tasks"]["zero_shot"]["score"] == pytest.approx(1 / 6)
    swapped = tmp_path / "swapped"
    shutil.copytree(animals, swapped)
    folders = [swapped / "test" / name for name in CLASSES]
    for folder in folders:
        folder.rename(folder.with_suffix(".old"))
    for folder, other in zip(folders, folders[1:] + folders[:1], strict=True):
        other.with_suffix(".old").rename(folder)
    assert evaluate(siglip, swapped, tmp_path / "out", ["zero_shot"])["tasks"]["zero_shot"]["score"] == 0


def test_two_classes_of_one_name_share_the_point(oracle, siglip, animals, tmp_path):
    """ImageNet has two classes "missile"."""
    named = tmp_path / "named"
    shutil.copytree(animals, named)
    (named / "classes.json").write_text(json.dumps({name: "cat" if name == "bee" else name for name in CLASSES}))
    task = evaluate(siglip, named, tmp_path / "out", ["zero_shot"])["tasks"]["zero_shot"]
    # Cats resemble two classes, bees nothing, which is as near to each of the six.
    assert task["score"] == pytest.approx((4 + 1 / 2 + 1 / 6) / 6)


def test_a_dataset_gives_the_score_of_the_folder_and_other_data_another_fingerprint(siglip, animals, tmp_path):
    images = [image for number in range(6) for image in shades(number)]
    labels = {"label": ([number for number in range(6) for _ in range(3)], CLASSES)}
    rows = write_dataset(tmp_path / "rows", "test", images, labels)
    settings = Settings(dtype="float32")
    folder, dataset, fewer = (
        evaluate(siglip, data, tmp_path / "out", ["zero_shot"], one)
        for data, one in ((animals, settings), (rows, settings), (rows, Settings(limit=7)))
    )
    assert folder["tasks"]["zero_shot"]["score"] == dataset["tasks"]["zero_shot"]["score"]
    prints = [one["receipt"]["tasks"]["zero_shot"]["fingerprint"] for one in (folder, dataset, fewer)]
    assert len(set(prints)) == 3
    assert fewer["tasks"]["zero_shot"]["n"] == 7


def test_by_reassessed_labels_any_right_class_counts_and_pictures_without_one_do_not():
    cosines = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3], [0.9, 0.0, 0.0]])
    assert real_accuracy(cosines, [{0, 2}, {1}, {0, 1}, set()]) == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_imagenets_validation_set_is_scored_by_its_reassessed_labels_too(siglip, tmp_path, monkeypatch):
    """A model that knows every class by its colour; of four pictures the labels take two as they are, leave one out
    and give one to the next class.
    """
    for number in range(1000):
        folder = tmp_path / "val" / f"n{10_000_000 + number}"
        folder.mkdir(parents=True)
        picture = folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        plain_picture((number // 256, number % 256, 0), (1, 1)).save(picture, "PNG")
    right = [[[number], [], [number], [(number + 1) % 1000]][number % 4] for number in range(1000)]
    (tmp_path / "real.json").write_text(json.dumps(right))
    (tmp_path / "classes.json").write_text(json.dumps([f"class_{number}" for number in range(1000)]))

    def numbers(self, images):
        red, green, _ = images[0].getpixel((0, 0))
        return {"number": torch.tensor([256 * red + green])}

    def named(self, texts):
        return torch.eye(1000)[[int(text.removesuffix(".").split()[-1]) for text in texts]]

    monkeypatch.setattr(Embedder, "prepare", numbers)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: torch.eye(1000)[inputs["number"]])
    monkeypatch.setattr(Embedder, "texts", named)
    task = evaluate(siglip, tmp_path, tmp_path / "out", ["zero_shot"], Settings(split="val"))["tasks"]["zero_shot"]
    assert (task["n"], task["score"], task["real"]) == (1000, 1.0, pytest.approx(2 / 3))


def test_an_encoder_has_no_words_for_classes(animals, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "finevit", "patch_size": 14}')
    with pytest.raises(ValueError, match="zero_shot needs a model of pictures and texts"):
        evaluate(tmp_path, animals, tmp_path / "out", ["zero_shot"])


def test_pictures_that_an_interrupted_run_saw_are_not_looked_at_again(oracle, siglip, animals, tmp_path, monkeypatch):
    def killed(self, texts):
        raise RuntimeError("killed")

    def looked(self, inputs):
        raise AssertionError("looked at a picture again")

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "texts", killed)
        with pytest.raises(RuntimeError, match="killed"):
            evaluate(siglip, animals, tmp_path, ["zero_shot"])
    monkeypatch.setattr(Embedder, "encode", looked)
    assert evaluate(siglip, animals, tmp_path, ["zero_shot"])["tasks"]["zero_shot"]["score"] == 1.0
