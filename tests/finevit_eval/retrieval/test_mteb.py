"""mteb and we agree on one model and one test set; mteb's own tasks run unchanged; an old score is never given."""

import io

import mteb
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from torch.utils.data import DataLoader

from finevit_eval.embedder import Embedder
from finevit_eval.result import Settings
from finevit_eval.retrieval.mteb_models import MtebEmbedder
from finevit_eval.retrieval.mteb_tasks import published_task
from finevit_eval.run import evaluate
from modeling_finevit import FineViTImageProcessorPil
from tests.support.encoder_cases import make_model
from tests.support.picture_text_models import save_dual, save_siglip
from tests.support.published_sets import WRITERS, colour

PICTURES = 12
pytestmark = pytest.mark.slow  # the import of mteb alone takes ten seconds


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return WRITERS["coco2017"](tmp_path_factory.mktemp("coco"), PICTURES)


def run(model, task, cache=None):
    """The scores of a task of one split."""
    done = mteb.evaluate(model, [task], cache=cache, encode_kwargs={"batch_size": 5, "show_progress_bar": False})
    return done.task_results[0].scores["test"][0]


@pytest.mark.parametrize("save", [save_siglip, save_dual])
def test_mteb_counts_as_we_do(save, coco, tmp_path):
    """Without ties, over pictures with five captions each."""
    folder = save(tmp_path / "model")
    ours = evaluate(folder, coco, tmp_path / "out", ["coco2017"], Settings(batch_size=8))["tasks"]
    model = MtebEmbedder.from_pretrained(folder)
    for name in ("coco2017_t2i", "coco2017_i2t"):
        theirs = run(model, published_task(name, coco))
        assert theirs["main_score"] == theirs["hit_rate_at_1"] == pytest.approx(ours[name]["score"], abs=1e-5)
        assert theirs["hit_rate_at_5"] == pytest.approx(ours[name]["r@5"], abs=1e-5)
        assert theirs["hit_rate_at_10"] == pytest.approx(ours[name]["r@10"], abs=1e-5)
    assert 0 < ours["coco2017_i2t"]["r@10"] < 1


@pytest.fixture
def flickr30k(tmp_path, monkeypatch):
    """The folder that `mteb/flickr30kt2i` is fetched to, in the schema of the Hub, with twelve pictures."""
    folder = tmp_path / "mteb" / "flickr30kt2i"
    pictures = []
    for number in range(PICTURES):
        encoded = io.BytesIO()
        Pillow.new("RGB", (60, 40 + number), colour(number)).save(encoded, "PNG")
        pictures.append({"id": str(number), "image": {"bytes": encoded.getvalue(), "path": None}, "text": None})
    queries = [{"id": f"q{number}", "text": f"Shade {number % PICTURES}"} for number in range(2 * PICTURES)]
    qrels = [
        {"query-id": f"q{number}", "corpus-id": str(number % PICTURES), "score": 1} for number in range(2 * PICTURES)
    ]
    columns = {"id": Value("string"), "image": Image(), "text": Value("string")}
    rows = {
        "corpus": Dataset.from_list(pictures, features=Features(columns)),
        "queries": Dataset.from_list(queries),
        "qrels": Dataset.from_list(qrels),
    }
    lines = ["---", "configs:"]
    for name, dataset in rows.items():
        (folder / name).mkdir(parents=True)
        dataset.to_parquet(folder / name / "test.parquet")
        lines += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {name}/test.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    monkeypatch.chdir(tmp_path)


def test_a_task_of_mteb_runs_unchanged(siglip, flickr30k):
    scores = run(MtebEmbedder.from_pretrained(siglip), mteb.get_task("Flickr30kT2IRetrieval"))
    embedder = Embedder.from_pretrained(siglip)
    images = embedder.images([Pillow.new("RGB", (60, 40 + number), colour(number)) for number in range(PICTURES)])
    cosines = embedder.texts([f"Shade {number}" for number in range(PICTURES)]) @ images.T
    hits = (cosines.topk(3).indices == torch.arange(PICTURES)[:, None]).any(1).double().mean()
    assert scores["hit_rate_at_3"] == pytest.approx(float(hits), abs=1e-5)
    assert 0 < scores["hit_rate_at_3"] < 1


def test_a_model_that_was_trained_anew_never_gets_an_old_score(coco, tmp_path):
    folder, cache, task = tmp_path / "model", mteb.ResultCache(tmp_path / "cache"), "coco2017_t2i"
    save_siglip(folder)
    first = run(MtebEmbedder.from_pretrained(str(folder)), published_task(task, coco), cache)
    calls = []
    again = MtebEmbedder.from_pretrained(str(folder))
    again.encode = lambda *arguments, **more: calls.append(arguments)
    assert run(again, published_task(task, coco), cache)["mrr_at_1000"] == pytest.approx(
        first["mrr_at_1000"], abs=1e-5
    )
    assert calls == []
    save_siglip(folder, seed=1)
    trained = MtebEmbedder.from_pretrained(str(folder))
    assert trained.mteb_model_meta.name == again.mteb_model_meta.name == "local/model"
    anew = run(trained, published_task(task, coco), cache)
    assert anew["mrr_at_1000"] != pytest.approx(first["mrr_at_1000"], abs=1e-4)
    assert anew["mrr_at_1000"] == run(trained, published_task(task, coco))["mrr_at_1000"]


def test_the_revision_tells_weights_and_pixel_budget(tmp_path):
    save_dual(tmp_path)
    whole, small = (MtebEmbedder.from_pretrained(str(tmp_path), max_pixels=most) for most in (None, 10_000))
    assert whole.mteb_model_meta.revision != small.mteb_model_meta.revision


def test_a_task_tells_other_data_of_the_same_name(coco, tmp_path):
    others = WRITERS["coco2017"](tmp_path, PICTURES + 1)
    one, other = (published_task("coco2017_t2i", folder).metadata.revision for folder in (coco, others))
    assert one != other


def loader(**columns):
    """Rows as mteb gives them to a model."""
    rows = Dataset.from_dict(columns)

    def collate(part):
        return {name: [row[name] for row in part] for name in columns}

    return DataLoader(rows, batch_size=2, collate_fn=collate)


def test_a_bare_encoder_is_a_model_of_pictures_alone(tmp_path):
    make_model().save_pretrained(tmp_path)
    FineViTImageProcessorPil().save_pretrained(tmp_path)
    model = MtebEmbedder.from_pretrained(str(tmp_path))
    assert model.mteb_model_meta.modalities == ["image"]
    images = [Pillow.new("RGB", (60 + 20 * n, 60), colour(n)) for n in range(3)]
    assert torch.allclose(model.encode(loader(image=images)), model.model.images(images), atol=1e-5)


def test_a_picture_with_a_text_is_the_sum_of_both(siglip):
    model = MtebEmbedder.from_pretrained(siglip)
    images, texts = [Pillow.new("RGB", (30, 30), colour(n)) for n in range(3)], list("abc")
    both = model.encode(loader(image=images, text=texts))
    assert torch.allclose(both, model.model.images(images) + model.model.texts(texts), atol=1e-5)
    assert torch.allclose(model.encode(loader(text=texts)), model.model.texts(texts), atol=1e-5)
