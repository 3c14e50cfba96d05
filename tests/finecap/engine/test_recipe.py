"""What a recipe says back to who wrote it wrongly: where, what was expected, and no traceback."""

import pytest

from finecap.engine.recipe import load_recipe, recipe_from
from finecap.engine.running.opening import open_run

CAPTIONER = {"name": "a", "model": "m", "endpoints": ["http://localhost:1/v1"]}
GOOD = {"ingest": {"source": "s", "license": "l"}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"ocrr": {}},
            r"r: unknown section 'ocrr'; known are ingest, .*, budget.*; did you mean ocr\?$",
        ),
        (
            {"ocr": {"min_scor": 0.5}},
            r"r: ocr\.min_scor: no such option; known are min_.*; did you mean min_score\?$",
        ),
        ({"ocr": True}, r"r: ocr: expected options, each with its name, or false"),
        ({"ocr": ["min_score"]}, r"r: ocr: expected options, each with its name, or false"),
        ({"ingest": {"source": "s"}}, r"r: ingest\.license: is missing"),
        ({"ingest": {"source": "", "license": "l"}}, r"r: ingest\.source: String should have at least 1 character"),
        ({"filter": {"min_short_side": "big"}}, r"r: filter\.min_short_side: .* integer.*, got 'big'"),
        ({"rows_per_shard": 0}, r"r: rows_per_shard: .* greater than or equal to 1, got 0"),
        ({"budget": {"dollar": 5}}, r"r: budget\.dollar: no such option; known are tokens, dollars"),
        ({"budget": {"dollars": 5}, "captioners": [CAPTIONER]}, r"r: budget\.dollars would have no effect: no captio"),
        ({"captioners": CAPTIONER}, r"r: captioners: Input should be a list"),
        ({"captioners": [{**CAPTIONER, "url": "x"}]}, r"r: captioners\.0\.url: no such option; known are name, model"),
        ({"captioners": [{**CAPTIONER, "endpoints": "http://x"}]}, r"r: captioners\.0\.endpoints: .* be a list$"),
        (
            {"captioners": [{**CAPTIONER, "endpoints": ["x:1"]}]},
            r"r: captioners\.0: captioner a: endpoint 'x:1'",
        ),
        ({"captioners": [CAPTIONER], "recaption": {"prompts": "no.yaml"}}, r"r: recaption: no\.yaml: no prompt templ"),
        ({"recaption": {}}, r"r: recaption needs at least one captioner"),
        (
            {"captioners": [CAPTIONER], "recaption": {}, "boxes": {"detector": "x"}},
            r"boxes needs the section",
        ),
    ],
)
def test_messages(sections, message):
    with pytest.raises(ValueError, match=rf"^{message}" if message.startswith("r:") else message):
        recipe_from(GOOD | sections, "r")


@pytest.mark.parametrize("option", ["sk-abcdef0123", {"sk-abcdef0123": 1}])
def test_a_key_in_the_wrong_place_is_not_printed(option):
    with pytest.raises(ValueError, match="captioners") as error:
        recipe_from(GOOD | {"captioners": [{**CAPTIONER, "timeout_s": option}]})
    assert "sk-abcdef0123" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"ingest: {source: s", b"\x00"])
def test_what_is_no_yaml(tmp_path, content):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"r\.yaml: not YAML"):
        load_recipe(tmp_path / "r.yaml")


def test_a_function_of_ones_own_is_only_needed_where_it_runs(tmp_path):
    recipe = recipe_from(GOOD | {"filter": {"function": "not_installed_here:measure"}}, "r")
    assert recipe.pass_key("filter") != recipe_from(GOOD, "r").pass_key("filter")
    with pytest.raises(ValueError, match="'not_installed_here:measure': no such function"):
        recipe.step("filter").run(iter([]), None, None)
    with pytest.raises(ValueError, match="'not_installed_here:measure': no such function"):
        open_run(recipe, tmp_path / "pictures", tmp_path / "out")
