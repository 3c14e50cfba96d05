"""`finevit data look` prints what a source holds, and draws it where it is asked to."""

import json
import re
import subprocess
import sys

import pytest

from finevit_cli import main
from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from modeling_finevit import FineViTImageProcessorPil
from tests.support.dual_cases import make_dual, make_processor
from tests.support.encoder_cases import make_model
from tests.support.paths import NANO
from tests.support.sources import picture


def test_a_look_at_a_corpus(nano_corpus, tmp_path, capsys):
    assert main(["data", "look", str(nano_corpus), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{nano_corpus.name}: finecap, 1 part, 48 rows" in said
    assert said.splitlines()[-1] == str(tmp_path / "contact_sheet.png")
    assert (tmp_path / "contact_sheet.png").is_file()


def test_fewer_rows_are_read_and_nothing_is_written_unasked(nano_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "look", str(nano_corpus), "--rows", "5"]) == 0
    assert "looked at 5 rows" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_several_sources_are_given_as_a_recipe_names_them(nano_corpus, tmp_path, capsys):
    (tmp_path / "there" / "photos").mkdir(parents=True)
    (tmp_path / "there" / "photos" / "a.png").write_bytes(picture(0))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train.csv").write_text("photo,words\na.png,one\ngone.png,two\n")
    table = {
        "path": str(tmp_path / "photos"),
        "columns": {"image": "photo", "caption": "words"},
        "image_folder": str(tmp_path / "there" / "photos"),
    }
    sources = [str(nano_corpus), str(tmp_path / "there" / "photos"), json.dumps(table)]
    assert main(["data", "look", *sources, "--rows", "5", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{nano_corpus.name}: finecap, 1 part, 48 rows\nlooked at 5 rows: 5 can be used" in said
    assert "\nphotos: pictures, 1 part, 1 row" in said
    assert "\nphotos (2): captions, 1 part, 2 rows\nlooked at 2 rows: 1 can be used" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"contact_sheet_{number}.png" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (['{"path": "a", "wieght": 1}'], "a source has wieght"),
        (["nowhere"], "no such file or folder"),
        (["CORPUS", "--split", "test"], "holds no files of the split 'test'"),
    ],
)
def test_what_is_not_there_ends_with_2_and_says_so(nano_corpus, arguments, reason, capsys):
    arguments = [str(nano_corpus) if one == "CORPUS" else one for one in arguments]
    assert main(["data", "look", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_with_a_model_a_look_says_tokens_packed_rows_and_first_turns(nano_corpus, capsys):
    arguments = ["data", "look", str(nano_corpus), "--model", str(NANO), "--mixture", '{"qa": 100, "transcribe": 1}']
    assert main([*arguments, "--max-length", "1500"]) == 0
    said = capsys.readouterr().out
    assert "as training takes them, in rows of 1,500 tokens: 48 of 48 fit" in said
    assert "of their tokens are real" in said
    assert "<|image_pad|> x " in said
    assert "transcribe" in next(line for line in said.splitlines() if line.startswith("turns: "))


def test_without_a_model_a_look_loads_no_torch(nano_corpus):
    code = (
        f"import sys; from finevit_cli import main; main(['data', 'look', {str(nano_corpus)!r}]); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "finecap.sources.look" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--mixture", "paper"], "--mixture would have no effect without --model"),
        (["--max-length", "9"], "--max-length would have no effect without --model"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--model", "NANO", "--mixture", "papers"], "one of the names paper"),
        (["--model", "NANO", "--mixture", "{"], "give JSON or a name"),
    ],
)
def test_what_makes_no_look_at_tokens_is_refused(nano_corpus, arguments, reason, capsys):
    arguments = [str(NANO) if one == "NANO" else one for one in arguments]
    assert main(["data", "look", str(nano_corpus), *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "processor", "name"),
    [
        (make_model, FineViTImageProcessorPil, "FineViTImageProcessor"),
        (lambda: make_dual(make_processor(16)), lambda: make_processor(16), "FineViTDualProcessor"),
    ],
    ids=["stage I", "stage II"],
)
def test_the_folder_of_an_earlier_stage_has_no_rows_of_tokens_and_takes_no_plan(
    nano_corpus, tmp_path, model, processor, name, capsys
):
    model().save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    given = [str(nano_corpus), "--model", str(tmp_path / "model")]
    for command in (["look", *given], ["pack", *given, "--out", str(tmp_path / "plan")]):
        assert main(["data", *command]) == 2
        said = capsys.readouterr().err
        assert f"holds a {name}" in said
        assert "no processor of a FineViT-VL: rows of tokens and plans are of stage III" in said


def test_a_plan_is_written_the_same_twice_and_the_defaults_are_those_of_training(nano_corpus, tmp_path, capsys):
    for name in ("a", "b"):
        assert main(["data", "pack", str(nano_corpus), "--model", str(NANO), "--out", str(tmp_path / name)]) == 0
    assert re.search(r"48 samples in \d rows of tokens, \d\d\.\d% of their tokens are real", capsys.readouterr().out)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["packs.parquet", "plan.json", "rejects.parquet", "rounds.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    flags = {
        "model": NANO,
        "data": nano_corpus,
        "plan": tmp_path / "a",
        "max_steps": 2,
        "output_dir": tmp_path / "out",
    }
    recipe = parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))])
    assert build_trainer(recipe).loader.plan is not None
