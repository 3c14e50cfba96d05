"""Which checkpoint a run goes on from, and that a finished folder holds this run and nothing of a former one."""

import hashlib
import json
import logging

import pytest
import yaml
from PIL import Image

from finecap.made_with import source_commit
from finecap.recipe_files import without_folders
from finevit_training.checkpoint import draw_curve, find_checkpoint
from finevit_training.receipt import model_card
from finevit_training.recipe import parse_recipe
from finevit_training.stages.running import prepare_run, train
from finevit_training.stages.sft.stage import STAGE
from tests.support.cards import run_snippet


def checkpoint(out, name, state="{}"):
    (out / name).mkdir(parents=True)
    (out / name / "trainer_state.json").write_text(state)


def test_the_newest_whole_checkpoint_is_found_and_half_written_ones_go(tmp_path):
    checkpoint(tmp_path, "checkpoint-2")
    checkpoint(tmp_path, "checkpoint-10")
    checkpoint(tmp_path, "checkpoint-12", '{"global_st')
    (tmp_path / "checkpoint-13").mkdir()
    checkpoint(tmp_path, "checkpoint-14")
    (tmp_path / "checkpoint-14" / "optimizer.pt").write_bytes(b"half")
    checkpoint(tmp_path, "checkpoint-best")
    assert find_checkpoint(tmp_path, "last") == str(tmp_path / "checkpoint-10")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-2", "checkpoint-10", "checkpoint-best"}


@pytest.mark.parametrize("wanted", [None, "false", "False"])
def test_a_run_starts_from_scratch_unless_asked(tmp_path, wanted):
    checkpoint(tmp_path, "checkpoint-2")
    assert find_checkpoint(tmp_path, wanted) is None


def test_resuming_where_there_is_no_checkpoint_is_an_error_unless_allowed(tmp_path):
    with pytest.raises(ValueError, match="last-or-start"):
        find_checkpoint(tmp_path, "last")
    assert find_checkpoint(tmp_path, "last-or-start") is None
    with pytest.raises(ValueError, match="no whole checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-7"))


@pytest.mark.parametrize("points", [0, 1, 2])
def test_a_curve_of_one_point_shows_it(points, tmp_path):
    draw_curve([{"samples_seen": step, "loss": 2.0} for step in range(points)], "nats", tmp_path / "curve.png")
    middle = Image.open(tmp_path / "curve.png").convert("RGB").crop((200, 120, 640, 360))
    is_blue = [blue > 150 > 100 > red for _, (red, _, blue) in middle.getcolors(2**20) or []]
    assert any(is_blue) == bool(points)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"lora_rank": 3}, r"another model: r 2 \(here 3\)"),
        ({"seed": 8}, "another seed, other files"),
        ({"max_turns": 2}, "max_turns"),
    ],
)
def test_a_run_that_would_not_go_on_as_it_began_is_refused_before_it_starts(recipe_for, changed, word):
    begun = {"lora_rank": 2, "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    STAGE.build_trainer(recipe_for(**begun)).train()
    again = begun | {"max_steps": 2, "resume_from_checkpoint": "last"}
    prepare_run(STAGE, recipe_for(**again))
    with pytest.raises(ValueError, match=word):
        prepare_run(STAGE, recipe_for(**(again | changed)))


def test_a_run_that_goes_on_says_from_where_and_misses_no_tied_weight(recipe_for, capsys, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    begun = {"max_steps": 1, "max_minutes": 9, "save_strategy": "steps", "save_steps": 1}
    train(prepare_run(STAGE, recipe_for(**begun)))
    said = capsys.readouterr().out
    assert "going on" not in said
    assert ", 1 step or 9 minutes, bf16" in said
    again = prepare_run(STAGE, recipe_for(**begun | {"max_steps": 2, "resume_from_checkpoint": "last-or-start"}))
    assert again.trainer.model.config.tie_word_embeddings
    train(again)
    assert f"going on from {again.checkpoint}\n" in capsys.readouterr().out
    assert "missing keys" not in caplog.text
    loaded = again.trainer.model.load_state_dict({}, strict=False)
    again.trainer._issue_warnings_after_load(loaded)  # what is missing is still said
    assert "missing keys" in caplog.text


@pytest.fixture(scope="module")
def finished(nano_corpus, tmp_path_factory):
    """A run of three steps over a folder that holds the shards of a former, larger model."""
    out = tmp_path_factory.mktemp("finished")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        (out / name).write_text("of a former run")
    recipe = {"size": "nano", "vocab_size": 512, "data": [str(nano_corpus)], "output_dir": str(out), "max_steps": 3}
    recipe |= {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}, "bf16": "auto"}
    recipe |= {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_split": "train",
        "eval_records": 12,
        "logging_steps": 1,
    }
    recipe |= {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True, "learning_rate": 3e-3}
    recipe |= {"per_device_train_batch_size": 4, "max_turns": 2}
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert train(prepare_run(STAGE, parse_recipe(["--recipe", str(path)]))) == out
    return out, recipe


def test_the_receipt_says_what_was_asked_what_became_of_it_and_on_what(finished):
    out, recipe = finished
    receipt = json.loads((out / "receipt.json").read_text())
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == recipe
    assert receipt["recipe"]["asked"] == without_folders(recipe)
    assert receipt["recipe"]["resolved"]["bf16"] in (True, False)
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert receipt["weights"] == {"model.safetensors": weights}
    assert receipt["data"]["records"] == 48
    assert receipt["trained"]["steps"] == 3
    assert receipt["trained"]["flops"] > 1e9
    assert receipt["threads"] >= 1
    assert receipt["versions"]["trl"]
    assert receipt["commit"] == source_commit()


def test_a_receipt_names_what_was_used_and_no_folder_of_this_machine(finished, nano_corpus):
    out, _ = finished
    receipt = (out / "receipt.json").read_text()
    assert str(nano_corpus.parent) not in receipt
    assert str(out.parent) not in receipt
    assert json.loads(receipt)["data"]["corpora"] == [nano_corpus.name]


def test_the_card_is_the_template_filled_in_from_the_receipt(finished):
    out, _ = finished
    card = (out / "README.md").read_text()
    assert "$" not in card
    samples = json.loads((out / "receipt.json").read_text())["trained"]["samples"]
    assert f"{samples:,} samples in 3 steps" in card
    assert "bf16: auto" in card
    assert str(out.parent) not in card  # folders of this machine are nobody else's business
    assert f"output_dir: {out.name}" in card


def test_the_code_of_the_card_runs_where_the_folder_lies(finished, monkeypatch):
    out, _ = finished
    assert isinstance(run_snippet(out / "README.md", out.parent, monkeypatch)["answer"], str)


def test_a_card_of_data_whose_rows_were_never_counted_says_so(finished):
    receipt = json.loads((finished[0] / "receipt.json").read_text())
    receipt["data"]["records"] = None
    assert "split train, an unknown number of records" in model_card("vl.md", "m", receipt)


def test_the_card_tells_the_last_loss_in_evaluation(finished):
    last = json.loads((finished[0] / "receipt.json").read_text())["trained"]["evaluations"][-1]
    card = (finished[0] / "README.md").read_text()
    corpus = json.loads((finished[0] / "receipt.json").read_text())["eval_data"]["corpora"][0]
    measured = f"It is measured on `{corpus}`, split train, 48 records."
    assert f"Loss in evaluation at step 3: {last['loss']:.4f}. {measured}" in card


def test_a_card_claims_no_license_and_says_where_one_is_written(finished):
    """The licence follows from data and models that a training knows nothing about."""
    card = (finished[0] / "README.md").read_text()
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert "add `license:`" in card


def test_weights_of_a_former_run_are_gone(finished):
    out, _ = finished
    assert {path.name for path in out.glob("*model*")} == {"model.safetensors"}


def test_the_best_evaluated_weights_are_the_finished_ones(finished):
    out, _ = finished
    trained = json.loads((out / "receipt.json").read_text())["trained"]
    best = min(trained["evaluations"], key=lambda entry: entry["loss"])
    assert [entry["step"] for entry in trained["evaluations"]] == [1, 2, 3]
    assert (trained["best_step"], trained["best_eval_loss"]) == (best["step"], best["loss"])
    kept = hashlib.sha256((out / f"checkpoint-{best['step']}" / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((out / "receipt.json").read_text())["weights"]["model.safetensors"] == kept
