"""Whole loss curves that must agree, as in TRL's invariant tests, through the real command line.

The sums of a step are taken in another order, so curves agree to 1e-5 relative and not to the bit; loader processes
change no bit.
"""

import json
import os

import pytest

from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from tests.support import watched_run
from tests.support.launching import finish, launch, losses
from tests.support.sources import picture
from tests.support.training_data import write_records
from tests.support.watched_run import Watched, arguments

STEPS = 5


def curve_in_process(**flags):
    trainer = build_trainer(parse_recipe(arguments({"max_steps": STEPS, "per_device_train_batch_size": 8, **flags})))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_accumulation_shapes_and_eager_attention_give_one_loss_curve(nano_corpus, tmp_path):
    curves = {}
    for size, accumulation in ((1, 8), (2, 4)):
        out = tmp_path / f"{size}x{accumulation}"
        shape = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        finish(launch(**shape, data=nano_corpus, max_steps=STEPS, output_dir=out))
        curves[out.name] = losses(out)
    common = {"data": nano_corpus, "output_dir": tmp_path / "in_process"}
    curves["8x1"] = curve_in_process(**common)
    curves["eager"] = curve_in_process(**common, attn_implementation="eager")

    reference = curves.pop("1x8")
    assert len(reference) == STEPS
    for name, curve in curves.items():
        assert curve == pytest.approx(reference, rel=1e-5), name
    # Negative control: another seed gives another curve.
    assert curve_in_process(**common, seed=8) != pytest.approx(reference, rel=1e-3)


def alike(number):
    """A record whose conversation has 151 to 300 tokens: none is cut, and no two go into a row of 300."""
    return {
        "id": f"record {number}",
        "image": {"bytes": picture(number, (280, 280)), "path": None},
        "width": 280,
        "height": 280,
        "source": "test",
        "license": "cc0-1.0",
        "split": "train",
        "global_caption": f"Plain colour {number}.",
        "captioner": None,
        "captions": [],
        "regions": [],
        "qa": [{"question": f"Which of {n}?", "answers": [str(number)], "kind": "doc"} for n in range(2)],
        "provenance": None,
    }


@pytest.mark.slow
@pytest.mark.parametrize("isolate", [False, True])
def test_packed_and_unpacked_samples_give_one_loss_curve(tmp_path, isolate):
    """Eight records are an epoch and a step: in one long row, or each in a row of its own."""
    data = write_records([alike(number) for number in range(8)], tmp_path / "data")
    common = {"data": data, "isolate_turns": isolate, "max_turns": 2, "mixture": '{"qa": 2, "global_caption": 1}'}
    runs = {}
    for name, length, rows in (("packed", 2400, 1), ("alone", 300, 8)):
        run = runs[name] = Watched(tmp_path / name)
        run.run(**common, max_steps=STEPS, max_length=length, per_device_train_batch_size=rows)
    ids = {name: [sorted(batch["ids"]) for (batch,) in run.steps().values()] for name, run in runs.items()}
    assert ids["packed"] == ids["alone"] == [[f"record {number}" for number in range(8)]] * STEPS
    curves = {name: losses(run.folder / "out") for name, run in runs.items()}
    assert curves["packed"] == pytest.approx(curves["alone"], rel=1e-5)
    assert curves["packed"][-1] < curves["packed"][0] - 0.5


@pytest.fixture(scope="module")
def alone(nano_corpus, tmp_path_factory):
    """One process, eight rows a step, on a corpus in parts of four rows."""
    import pyarrow.parquet as pq

    records = pq.read_table(nano_corpus / "data").to_pylist()
    folder = tmp_path_factory.mktemp("alone")
    flags = {"data": write_records(records, folder / "data", row_group_size=4), "max_steps": STEPS, "max_length": 384}
    run = Watched(folder / "run")
    run.run(**flags, per_device_train_batch_size=8)
    return run, flags


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_loader_processes_change_no_bit_of_a_curve(alone, tmp_path, workers):
    run, flags = alone
    helped = Watched(tmp_path)
    helped.run(**flags, per_device_train_batch_size=8, dataloader_num_workers=workers)
    assert helped.steps() == run.steps()
    assert losses(helped.folder / "out") == losses(run.folder / "out")


@pytest.mark.slow
def test_two_ranks_train_on_the_same_samples_and_have_the_same_losses_as_one(alone, tmp_path, monkeypatch):
    run, flags = alone
    monkeypatch.setitem(os.environ, watched_run.FOLDER, str(tmp_path))
    entry = (str(watched_run.__file__),)
    shared = Watched(tmp_path)
    finish(launch(processes=2, entry=entry, **flags, output_dir=tmp_path / "out", per_device_train_batch_size=4))
    assert losses(shared.folder / "out") == pytest.approx(losses(run.folder / "out"), rel=1e-5)
    assert len(losses(shared.folder / "out")) == STEPS
    one, two = run.steps(), shared.steps()
    for step, (batch,) in one.items():
        assert [len(two[step]), [name for rank in two[step] for name in rank["ids"]]] == [2, batch["ids"]]
    assert json.dumps(one[1]) != json.dumps(one[2])
