"""Sets become records that retrieval and regions measure: an oracle gets 1; shuffled or blind it is at chance."""

import json

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

from finecap.boxes import format_box
from finecap.pictures import encoded
from finecap.records import new_record, region
from finecap.tasks.wording import BOX_TO_TEXT, TEXT_TO_BOX
from finevit_cli import main
from finevit_eval.embedder import Embedder
from finevit_eval.offline import run
from finevit_eval.offline.captioned import CaptionedPicture, captioned_records
from finevit_eval.result import GREY, Settings, load_results
from finevit_eval.run import evaluate
from finevit_vl.answering import Answer, AnswerGenerator
from finevit_vl.tokenizer import build_qwen_tokenizer

SIZE = 16
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
NAMES = ["emoji_t2i", "emoji_i2t", "stamps_t2i", "stamps_i2t"]


def box_of(n):
    """No two overlap."""
    x, y = 10 * (n % 4), 7 * (n // 4)
    return (x, y, x + 8, y + 6)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A folder with an untrained SigLIP and its processor."""
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = build_qwen_tokenizer(512)
    config = SiglipConfig(
        text_config={**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**SMALL, "image_size": 28, "patch_size": 14},
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 28, "width": 28}), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def shades(monkeypatch):
    """Instead of the real sets: plain pictures whose captions name their shade, or with a region of a text each."""

    def records(name):
        pictures = (encoded(Image.new("RGB", (40, 30), (12 * n, 90, 90)), "PNG") for n in range(SIZE))
        items = (CaptionedPicture(f"{name}/{n:02d}", picture, f"{name} {n}") for n, picture in enumerate(pictures))
        return captioned_records(items, f"{name} 1", "CC0")

    def pages(name):
        for n in range(SIZE):
            picture, text = encoded(Image.new("RGB", (40, 30), (12 * n, 90, 90)), "PNG"), f"text {n}"
            regions = [region(box_of(n), "document_text", "line", text=text)]
            yield new_record(f"{name}/{n}", picture, (40, 30), f"{name} 1", "CC0", "test", regions, [])

    sets = {name: lambda name=name: records(name) for name in ("emoji", "stamps")}
    monkeypatch.setattr(run, "SETS", sets | {name: lambda name=name: pages(name) for name in ("pdf", "photo")})


@pytest.fixture
def oracle(monkeypatch):
    """Make every loaded model see the shade of a picture and read it in a text."""

    def embedding(shades):
        angle = torch.tensor(shades, dtype=torch.float32) * 0.1
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def seen(self, images):
        return {"shades": torch.tensor([image.getpixel((0, 0))[0] / 12 for image in images])}

    monkeypatch.setattr(Embedder, "prepare", seen)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: embedding(inputs["shades"].tolist()))
    monkeypatch.setattr(Embedder, "texts", lambda self, texts: embedding([int(t.split()[-1]) for t in texts]))


def test_an_oracle_finds_everything_and_shuffled_or_blind_nothing(oracle, siglip, tmp_path):
    seeing = evaluate(siglip, None, tmp_path / "seeing", ["offline"])["tasks"]
    assert list(seeing) == NAMES
    for task in seeing.values():
        assert (task["score"], task["n"], task["controls"]["shuffled"]) == (1.0, SIZE, 0.0)
        assert task["controls"]["chance"] == 1 / SIZE
    blind = evaluate(siglip, None, tmp_path / "blind", ["offline"], Settings(blind=True))["tasks"]
    assert all(task["score"] == pytest.approx(1 / SIZE) for task in blind.values())


@pytest.fixture
def reading(monkeypatch):
    """Make every loaded model answer from the truth, and "nothing" to a grey picture."""
    boxes = {n: format_box(box_of(n), 40, 30) for n in range(SIZE)}
    table = {BOX_TO_TEXT.format(box=box): f"text {n}" for n, box in boxes.items()}
    table |= {TEXT_TO_BOX.format(text=f"text {n}"): box for n, box in boxes.items()}

    def answer(conversation):
        picture, text = conversation[0]["content"]
        words = "nothing" if picture["image"].getpixel((0, 0)) == GREY else table[text["text"]]
        return Answer(words, words, text["text"], 1)

    monkeypatch.setattr(AnswerGenerator, "__call__", lambda self, asked, **_: [answer(one) for one in asked])


def test_an_oracle_reads_and_finds_everything_and_nothing_blind(reading, model_dir, tmp_path):
    names = ["pdf_words", "pdf_boxes", "photo_words"]
    seeing = evaluate(model_dir, None, tmp_path / "seeing", names)["tasks"]
    assert list(seeing) == names
    for task in seeing.values():
        assert (task["score"], task["n"]) == (1.0, SIZE)
        assert task["controls"]["shuffled"] < 0.2
    assert seeing["pdf_words"]["controls"]["most_common"] == 1 / SIZE
    blind = evaluate(model_dir, None, tmp_path / "blind", names, Settings(blind=True))["tasks"]
    assert all(task["score"] == 0.0 for task in blind.values())


def test_the_receipt_names_source_and_licence_and_tells_sets_apart(oracle, siglip, tmp_path):
    tasks = evaluate(siglip, None, tmp_path, NAMES, Settings(limit=9))["receipt"]["tasks"]
    assert [task["source"] for task in tasks.values()] == ["emoji 1", "emoji 1", "stamps 1", "stamps 1"]
    assert {task["license"] for task in tasks.values()} == {"CC0"}
    assert tasks["emoji_t2i"]["fingerprint"] == tasks["emoji_i2t"]["fingerprint"] != tasks["stamps_t2i"]["fingerprint"]
    samples = [json.loads(line) for line in (tmp_path / "samples_stamps_t2i.jsonl").read_text().splitlines()]
    assert len(samples) == 9
    assert all(sample["id"].startswith("stamps/") for sample in samples)


def test_a_set_is_left_as_a_dataset_that_others_can_read(oracle, siglip, tmp_path):
    evaluate(siglip, None, tmp_path, ["emoji_t2i"])
    rows = load_dataset(str(tmp_path / "offline" / "emoji"), split="test")
    assert len(rows) == SIZE
    assert rows[3]["image"].getpixel((0, 0)) == (36, 90, 90)
    assert not (tmp_path / "offline" / "stamps").exists()


def test_a_set_that_cannot_be_had_leaves_the_results_of_the_others(oracle, siglip, tmp_path, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'emoji'", name="emoji")

    monkeypatch.setitem(run.SETS, "emoji", missing)
    with pytest.raises(ValueError, match=r"emoji needs emoji, which is not installed.*finevit\[offline\]"):
        evaluate(siglip, None, tmp_path, ["offline"])
    assert list(load_results(tmp_path)["tasks"]) == ["stamps_t2i", "stamps_i2t"]


def test_the_command_needs_no_data_and_takes_none(oracle, siglip, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["eval", "stamps_i2t", "--model", siglip, "--out", str(out)]) == 0
    assert list(load_results(out)["tasks"]) == ["stamps_i2t"]
    assert main(["eval", "offline", "--model", siglip, "--data", str(tmp_path), "--out", str(out)]) == 2
    assert "brings its data along; leave --data out" in capsys.readouterr().err
