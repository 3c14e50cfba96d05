"""Trainings that are killed again and again go on as if nothing had happened, on another number of ranks as well."""

import json
import random
from collections import Counter

import pytest

from tests.support.launching import losses
from tests.support.training_data import write_records
from tests.support.watched_run import HOOKS, Watched

STEPS, SAVED_EVERY = 24, 3
MODES = {"steps": {"max_steps": STEPS}, "minutes": {"max_minutes": STEPS / 60, "step_clock": True}}
# (loader processes, mode): kills; twenty in all.
KILLS = {(0, "steps"): 5, (1, "steps"): 4, (4, "steps"): 3, (0, "minutes"): 3, (1, "minutes"): 2, (4, "minutes"): 3}


@pytest.fixture(scope="module")
def records(nano_corpus):
    import pyarrow.parquet as pq

    return pq.read_table(nano_corpus / "data").to_pylist()


@pytest.fixture(scope="module")
def flags(records, tmp_path_factory):
    """Two weighted sources in many parts, a curriculum, and steps of two micro-batches."""
    folder = tmp_path_factory.mktemp("sources")
    often = write_records(records[:16], folder / "often", row_group_size=4)
    once = write_records(records[16:], folder / "once", row_group_size=4)
    early, late = {"qa": 2, "transcribe": 1}, {"grounding": 1, "global_caption": 1, "qa": 1}
    curriculum = [{"until": 0.4, "mixture": early}, {"until": 1.0, "mixture": late}]
    return {
        "recipe": _recipe(folder / "recipe.yaml", [{"path": often, "weight": 2.5}, once], curriculum),
        "max_length": 384,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": SAVED_EVERY,
        "save_total_limit": 2,
    }


def _recipe(path, data, mixture):
    path.write_text(json.dumps({"data": data, "mixture": mixture}))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """An uninterrupted run of each mode."""
    runs = {mode: Watched(tmp_path_factory.mktemp(mode)) for mode in MODES}
    for mode, run in runs.items():
        run.run(**flags, **MODES[mode])
    return runs


@pytest.mark.slow
def test_there_are_twenty_kills():
    assert sum(KILLS.values()) == 20


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "mode"), KILLS)
def test_a_killed_run_goes_on_with_the_same_samples_and_losses_to_the_bit(flags, whole, tmp_path, workers, mode):
    draw = random.Random(f"{workers}/{mode}")
    broken = Watched(tmp_path)
    for step in sorted(draw.sample(range(1, STEPS), KILLS[workers, mode])):
        hook = draw.choice(HOOKS if step % SAVED_EVERY == 0 else HOOKS[:2])
        broken.run(kill=(step, hook), dataloader_num_workers=workers, **flags, **MODES[mode])
    broken.run(dataloader_num_workers=workers, **flags, **MODES[mode])
    expected = whole[mode].steps()
    assert list(expected) == list(range(1, STEPS + 1))
    assert broken.steps() == expected
    assert losses(broken.folder / "out") == losses(whole[mode].folder / "out")
    allowed = [json.dumps(batch) for batches in expected.values() for batch in batches]
    taken_back = [json.dumps(batch) for run in broken.runs() for batch in run]
    assert len(taken_back) > len(allowed)
    assert set(taken_back) == set(allowed), "what a kill took back was the same too"


@pytest.mark.slow
def test_the_modes_ask_other_questions_about_other_samples_at_other_times(whole):
    """Negative control: one batch of one step is not like another's, and the curriculum has an effect."""
    steps = whole["steps"].steps()
    assert len({json.dumps(batch["ids"]) for batches in steps.values() for batch in batches}) > STEPS
    assert max(max(batch["epochs"]) for batches in steps.values() for batch in batches) >= 1


@pytest.mark.slow
def test_an_epoch_over_1_2_4_and_1_ranks_with_kills_has_every_sample_once(records, tmp_path):
    many = [{**record, "id": f"{number} {record['id']}"} for number in range(3) for record in records]
    data = write_records(many, tmp_path / "data", row_group_size=8)
    flags = {"data": data, "max_length": 384, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}
    flags |= {"mixture": '{"qa": 100, "transcribe": 1, "global_caption": 1}', "save_total_limit": 2}
    run = Watched(tmp_path / "run")
    for ranks, rows, accumulation, kill in ((1, 2, 2, 3), (2, 1, 2, 6), (4, 1, 1, 8), (1, 4, 1, None)):
        shape = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        run.run(ranks, kill=(kill, "on_save") if kill else None, **flags, **shape)
    steps = run.steps()
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert len(steps) > 10
    assert {len(batches) for batches in steps.values()} == {1, 2, 4}
    seen = Counter(
        record_id
        for batches in steps.values()
        for batch in batches
        for record_id, epoch in zip(batch["ids"], batch["epochs"], strict=True)
        if epoch == 0
    )
    assert seen == Counter(record["id"] for record in many)
