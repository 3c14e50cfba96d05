"""`finevit features`: pictures and a model folder in; drawings and a page, or files of features, out."""

import json

import pytest

from finevit_cli import main
from tests.support.vl_models import noise_image, save_untrained_nano


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_untrained_nano(tmp_path_factory.mktemp("model") / "untrained"))


@pytest.fixture
def picture(tmp_path):
    noise_image(0, 140, 84).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_of_a_vision_language_model_the_encoder_is_shown(model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["features", picture, "--model", model, "--out", str(out), "--point", "100,60"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "features.html")
    assert {path.name for path in out.iterdir()} == {"features.html", "picture.pca.png", "picture.point.png"}
    assert "untrained" in (out / "features.html").read_text()


def test_features_are_saved_and_what_was_skipped_is_said(model, picture, tmp_path, capsys):
    (tmp_path / "words.png").write_text("no picture")
    arguments = ["features", str(tmp_path), "--model", model, "--out", str(tmp_path / "out"), "--save", "safetensors"]
    assert main([*arguments, "--max-pixels", "3136"]) == 0
    said = capsys.readouterr()
    assert "features of 1 pictures, 1 skipped" in said.out
    assert "skipped" in said.err
    assert "words.png: not a picture" in said.err
    written = json.loads((tmp_path / "out" / "features.json").read_text())
    assert written["prepared"]["size"]["longest_edge"] == 3136
    assert len(written["model"]["weights"]["model.safetensors"]) == 64
    assert list(written["files"].values()) == ["picture.safetensors"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--phrase", "a cat"], "reads no text"),
        (["--point", "140,10"], "lies outside of the picture of 140x84 pixels"),
        (["--box", "5,5,5,9"], "must have x1 < x2"),
        (["--save", "npz", "--phrase", "a cat"], "no effect with --save"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, reason, model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["features", picture, "--model", model, "--out", str(out), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("finevit: ")
    assert reason in said
    assert not out.exists()


@pytest.mark.parametrize("option", [["--point", "5"], ["--box", "1,2,3"], ["--point", "a,b"], ["--save", "csv"]])
def test_a_value_of_another_form_is_wrong_usage(option, picture, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["features", picture, "--model", "m", "--out", str(tmp_path / "out"), *option])
    assert stop.value.code == 2
