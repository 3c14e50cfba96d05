"""Retrieval by a small random SigLIP equals brute force by hand; an oracle gets 1, a shuffled or blind one chance."""

import io
import json

import pytest
import torch
from datasets import Dataset
from PIL import Image

from finecap.features import FINECAP_FEATURES
from finevit_cli import main
from finevit_eval.embedder import Embedder
from finevit_eval.kept import KEPT_FILE
from finevit_eval.result import Settings, combine
from finevit_eval.run import evaluate
from tests.support.picture_text_models import save_siglip
from tests.support.report_pictures import lacks_pictures

SIZE = 30
TASKS = ["t2i_short", "i2t_short", "t2i_dense", "i2t_dense"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Plain pictures of `SIZE` shades, whose captions name the shade."""
    from tests.finevit_eval.conftest import _record

    folder = tmp_path_factory.mktemp("pool")
    rows = []
    for number in range(SIZE):
        encoded = io.BytesIO()
        Image.new("RGB", (40, 30), (8 * number, 255 - 8 * number, 90)).save(encoded, "PNG")
        captions = [
            {"style": style, "text": f"{style} Shade {number}.", "captioner": "me"} for style in ("short", "dense")
        ]
        rows.append({**_record(number % 10), "id": f"r{number:02d}", "captions": captions})
        rows[-1]["image"] = {"bytes": encoded.getvalue(), "path": None}
    rows[4]["image"] = {"bytes": b"broken", "path": None}
    (folder / "data").mkdir()
    Dataset.from_list(rows, features=FINECAP_FEATURES).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def samples(folder, name):
    return [json.loads(line) for line in (folder / f"samples_{name}.jsonl").read_text().splitlines()]


def test_scores_are_those_of_the_whole_matrix_by_hand(siglip, pool, tmp_path):
    results = evaluate(siglip, pool, tmp_path, settings=Settings(batch_size=4))
    assert list(results["tasks"]) == TASKS
    embedder = Embedder.from_pretrained(siglip)
    shades = [number for number in range(SIZE) if number != 4]
    images = embedder.images([Image.new("RGB", (40, 30), (8 * n, 255 - 8 * n, 90)) for n in shades])
    cosines = embedder.texts([f"short Shade {n}." for n in shades]) @ images.T
    for name, matrix in (("t2i_short", cosines), ("i2t_short", cosines.T)):
        hits = {k: [row in matrix[row].topk(k).indices for row in range(len(shades))] for k in (1, 5, 10)}
        entry = results["tasks"][name]
        assert entry["n"] == SIZE - 1
        assert entry["score"] == pytest.approx(sum(hits[1]) / len(shades))
        assert (entry["r@5"], entry["r@10"]) == pytest.approx([sum(hits[k]) / len(shades) for k in (5, 10)])
    receipt = results["receipt"]
    assert [one.partition(":")[0] for one in receipt["skipped"]] == ["r04"]
    assert results["tasks"]["t2i_short"]["controls"]["chance"] == pytest.approx(1 / 29)
    assert receipt["tasks"]["t2i_short"]["fingerprint"] != receipt["tasks"]["t2i_dense"]["fingerprint"]


@pytest.fixture
def oracle(monkeypatch):
    """Make every loaded model see the shade of a picture and read it in a text."""

    def embedding(shades):
        angle = torch.tensor(shades, dtype=torch.float32) * 0.1
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def shades(self, images):
        return {"shades": torch.tensor([image.getpixel((0, 0))[0] / 8 for image in images])}

    monkeypatch.setattr(Embedder, "prepare", shades)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: embedding(inputs["shades"].tolist()))
    monkeypatch.setattr(Embedder, "texts", lambda self, texts: embedding([int(t.split()[-1][:-1]) for t in texts]))


def test_an_oracle_finds_everything_and_nothing_when_shuffled_or_blind(oracle, siglip, pool, tmp_path):
    settings = Settings(batch_size=8)
    seeing = evaluate(siglip, pool, tmp_path / "seeing", settings=settings)
    assert all(task["score"] == 1.0 and task["controls"]["shuffled"] == 0.0 for task in seeing["tasks"].values())
    blind = evaluate(siglip, pool, tmp_path / "blind", settings=Settings(batch_size=8, blind=True))
    both = combine(seeing, blind)["tasks"]["t2i_short"]
    assert both["blind_score"] == pytest.approx(1 / 29)
    assert lacks_pictures(tmp_path / "blind") == {}
    confused = [sample for sample in samples(tmp_path / "blind", "t2i_short") if "confused" in sample]
    assert confused
    assert all(sample["group"] not in sample["confused"] for sample in confused)
    wrong = next(sample for sample in samples(tmp_path / "blind", "i2t_short") if sample["score"] < 1)
    assert (wrong["question"][0], wrong["truth"].split()[0]) == ("r", "short")


def test_the_command_measures_what_the_model_can_do(oracle, siglip, pool, tmp_path, capsys):
    assert main(["eval", "--model", siglip, "--data", str(pool), "--out", str(tmp_path), "--limit", "10"]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines() if "n=" in line] == TASKS
    assert main(["eval", "doc", "--model", siglip, "--data", str(pool), "--out", str(tmp_path)]) == 2
    assert "doc needs a vision-language model" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_and_leaves_nothing_behind(siglip, pool, tmp_path, monkeypatch):
    plain, seen = Embedder.encode, []

    def stops(self, inputs):
        seen.append(len(inputs["pixel_values"]))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return plain(self, inputs)

    settings = Settings(batch_size=4)
    whole = evaluate(siglip, pool, tmp_path / "whole", settings=settings)["tasks"]
    monkeypatch.setattr(Embedder, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate(siglip, pool, tmp_path / "stopped", settings=settings)
    assert (tmp_path / "stopped" / KEPT_FILE).is_file()
    assert evaluate(siglip, pool, tmp_path / "stopped", settings=settings)["tasks"] == whole
    assert sum(seen) - 4 == SIZE - 1
    assert not (tmp_path / "stopped" / KEPT_FILE).exists()


def test_a_model_that_resizes_to_a_square_has_no_pixel_budget(siglip, pool, tmp_path):
    with pytest.raises(ValueError, match="leave max_pixels out"):
        evaluate(siglip, pool, tmp_path, settings=Settings(max_pixels=5000))


def test_texts_are_read_in_lower_case_and_alone_as_in_company(siglip):
    embedder = Embedder.from_pretrained(siglip)
    alone, together = embedder.texts(["A CAT"]), embedder.texts(["a much longer text of a dog", "a cat"])
    assert torch.allclose(alone[0], together[1], atol=1e-6)
    assert not torch.allclose(alone[0], together[0], atol=1e-2)
