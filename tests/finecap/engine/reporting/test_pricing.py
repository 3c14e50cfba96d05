"""What a run will cost, estimated from names, sizes and assumptions: never from a picture or an endpoint."""

import dataclasses
import json
import math
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.engine.captioners.prompts import load_templates
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting import pricing
from finecap.engine.reporting.pricing import Assumptions, assumptions_from, billion_parameters, format_price, price

BIG = {
    "name": "big",
    "model": "Qwen3-VL-32B-Instruct",
    "endpoints": ["http://127.0.0.1:9/v1"],
    "weight": 3,
    "dollars_per_million_prompt_tokens": 0.5,
    "dollars_per_million_completion_tokens": 2.0,
}
SMALL = {"name": "small", "model": "InternVL3-8B", "endpoints": ["http://127.0.0.1:9/v1"]}


def make_recipe(**sections):
    content = {
        "ingest": {"source": "s", "license": "l"},
        **{name: {} for name in ("ocr", "recaption", "phrases", "balance", "local_captions", "verify")},
        "boxes": {"url": "http://127.0.0.1:9"},
        "captioners": [BIG, SMALL],
        **sections,
    }
    return recipe_from(content)


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of a gigabyte each that are holes: reading them would take minutes and decode to nothing."""
    for number in range(10):
        with (tmp_path / f"{number}.jpg").open("wb") as file:
            file.truncate(10**9)
    return tmp_path


def test_nothing_is_read_and_sizes_make_the_disk(folder):
    found = price(make_recipe(), folder)
    assert (found.images, found.counted, found.shards) == (10, True, 1)
    assert found.disk_bytes == 2 * 10**10 + 10 * Assumptions().text_bytes
    assert price(make_recipe(pack={"webdataset": True}), folder).disk_bytes - found.disk_bytes == 10**10


def test_a_recipe_of_one_caption_can_be_computed_by_hand(folder, tmp_path):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("{global: {dense: {max_tokens: 640, photo: [abcd, abcdefgh], document: [abcdef]}}}")
    recipe = recipe_from(
        {
            "ingest": {"source": "s", "license": "l"},
            "recaption": {"styles": ["dense"], "prompts": str(prompts)},
            "captioners": [BIG],
        }
    )
    found = price(recipe, folder, Assumptions(kept_share=1, pixels=784 * 1000, characters_per_token=2))
    [captioner] = found.captioners
    # A thousand tokens of picture and three of prompt in, 211 out, for each of ten pictures.
    assert (captioner.requests, captioner.prompt_tokens, captioner.completion_tokens) == (10, 10_030, 2110)
    assert captioner.dollars == found.dollars == pytest.approx((10_030 * 0.5 + 2110 * 2) / 1e6)
    per_token = 2 * 32e9 / 989e12
    assert captioner.gpu_hours * 3600 == pytest.approx(per_token * (10_030 / 0.4 + 2110 / 0.08))


@pytest.mark.parametrize(
    ("captioners", "without"),
    [
        ([BIG, SMALL], ["small"]),
        ([BIG, {**SMALL, "weight": 0}], []),  # never asked
        ([BIG], []),
        ([SMALL], []),  # all of them serve themselves
    ],
)
def test_a_captioner_without_a_price_among_priced_ones_is_named(folder, captioners, without):
    found = price(make_recipe(captioners=captioners), folder)
    assert found.without_price == without
    text = format_price(found)
    assert ("no price" in text) == ("not in the dollars: small" in text) == bool(without)


def test_the_papers_collection_comes_out_of_its_own_statistics(folder, monkeypatch):
    monkeypatch.setattr(pricing, "count_images", lambda shards: (round(80e6 / 0.97), True))
    found = price(make_recipe(), folder)
    assert found.passes["local_captions"]["requests"] == pytest.approx(226e6, rel=1e-3)
    assert found.passes["local_captions"]["completion_tokens"] == pytest.approx(226e6 * 57, rel=1e-3)
    assert found.passes["boxes"]["detections"] == pytest.approx(63e6, rel=1e-3)
    assert found.passes["recaption"]["requests"] == pytest.approx(2 * 80e6, rel=1e-3)


@settings(deadline=None)  # files are written
@given(images=st.integers(1, 10**9), factor=st.integers(2, 50))
def test_everything_but_the_pictures_on_disk_grows_with_the_images(images, factor, tmp_path_factory):
    source = tmp_path_factory.mktemp("one")
    (source / "a.jpg").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "count_images", lambda shards: (images, True))
        one = price(make_recipe(), source)
        patch.setattr(pricing, "count_images", lambda shards: (images * factor, True))
        many = price(make_recipe(), source)
    for name in ("dollars", "gpu_hours", "core_hours"):
        assert getattr(many, name) == pytest.approx(factor * getattr(one, name))
    assert abs(many.tokens - factor * one.tokens) <= factor
    assert sum(captioner.share for captioner in one.captioners) == pytest.approx(1)
    assert sum(captioner.requests for captioner in one.captioners) == pytest.approx(one.requests, abs=1)


def test_weights_split_the_work_and_smaller_models_cost_less_time(folder):
    big, small = price(make_recipe(), folder).captioners
    assert (big.share, small.share) == (0.75, 0.25)
    assert big.gpu_hours / small.gpu_hours == pytest.approx(3 * 32 / 8, rel=1e-3)
    assert (small.dollars, big.dollars > 0) == (0, True)


def test_larger_pictures_cost_more_until_they_are_scaled_down(folder):
    def tokens(pixels):
        return price(make_recipe(), folder, Assumptions(pixels=pixels)).passes["recaption"]["prompt_tokens"]

    limit = 1344**2 * 3 / 4
    assert tokens(limit / 2) < tokens(limit) == tokens(limit * 10)


def test_a_captioner_that_grounds_is_asked_in_place_of_a_detector(folder):
    found = price(make_recipe(boxes={"captioner": "small"}), folder)
    assert found.passes["boxes"]["detections"] == found.passes["verify"]["detections"] == 0
    plain = price(make_recipe(), folder)
    assert found.captioners[0] == plain.captioners[0]
    assert found.captioners[1].requests > plain.captioners[1].requests


def test_a_function_of_ones_own_and_a_small_budget_are_said(folder):
    recipe = make_recipe(recaption={"function": "builtins:map"}, budget={"tokens": 1000})
    found = price(recipe, folder)
    assert (found.unpriced, found.over_budget) == (["recaption"], ["tokens"])
    text = format_price(found)
    assert "above the budget" in text
    assert max(map(len, text.splitlines())) <= 100
    assert json.loads(json.dumps(dataclasses.asdict(found)))["images"] == 10


def test_parquet_and_archives_are_counted_and_very_many_archives_estimated(tmp_path, monkeypatch):
    tables, tars = tmp_path / "tables", tmp_path / "tars"
    tables.mkdir()
    tars.mkdir()
    for number in range(2):
        pq.write_table(pa.table({"image": [b"no picture"] * 7}), tables / f"{number}.parquet")
    for number in range(30):
        with tarfile.open(tars / f"{number}.tar", "w") as archive:
            for picture in range(4 + number % 2):
                entry = tarfile.TarInfo(f"{picture}.jpg")
                archive.addfile(entry)
    assert price(make_recipe(), tables).images == 14
    assert price(make_recipe(rows_per_shard=3), tables).images == 14
    assert price(make_recipe(rows_per_shard=2), tars).images == 135
    for module in (pricing, __import__("finecap.shards.plan", fromlist=["shards"])):
        monkeypatch.setattr(module, "MAX_SCANNED_ARCHIVES", 10)
    estimate = price(make_recipe(), tars)
    assert not estimate.counted
    assert 110 < estimate.images < 160


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen3-VL-32B-Instruct", 32),
        ("Qwen3-VL-30B-A3B-Instruct", 3),
        ("InternVL3-8B", 8),
        ("SmolVLM2-2.2B-Instruct", 2.2),
        ("gpt-5-mini", None),
        ("MiniCPM-V-4_5", None),
    ],
)
def test_the_size_of_a_model_is_in_its_name(name, size):
    assert billion_parameters(name) == size


def test_a_wrong_assumption_is_named():
    assert assumptions_from({"pixels": "250000"}).pixels == 250_000
    with pytest.raises(ValueError, match=r"assumption pixel: .*known are kept_share"):
        assumptions_from({"pixel": 1})
    with pytest.raises(ValueError, match=r"assumption kept_share: .* got 2"):
        assumptions_from({"kept_share": 2})


def test_prompts_have_as_many_tokens_as_a_real_tokenizer_says():
    dashscope = pytest.importorskip("dashscope", reason="Qwen's tokenizer comes with it (extra corpus)")
    tokenizer = dashscope.get_tokenizer("qwen-turbo")
    templates = load_templates(None, local=True)
    wordings = [wording for style in templates.styles.values() for wording in (*style.photo, *style.document)]
    tokens = sum(len(tokenizer.encode(wording)) for wording in wordings)
    assert math.isclose(sum(map(len, wordings)) / tokens, Assumptions().characters_per_token, rel_tol=0.15)
