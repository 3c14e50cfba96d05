"""A training by a written plan has the batches of one that plans itself, and a plan of anything else is refused."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from finecap.files import claimed
from finevit_training.data.written_plan import PACKS, WrittenPlan, write_plan
from finevit_training.examples.conversation import Conversations
from tests.support.training_data import ids_of, loader_of, reader_of, write_records

MIXTURE = {"qa": 100, "transcribe": 1, "global_caption": 1}
CURRICULUM = [{"until": 0.5, "mixture": {"transcribe": 1, "qa": 0}}, {"until": 1.0, "mixture": {"qa": 100}}]


@pytest.fixture
def reader(reader_for):
    return reader_for(mixture=MIXTURE, max_length=700)


@pytest.fixture
def plan(reader, tmp_path):
    write_plan(reader, 700, 1, 2, tmp_path / "plan")
    return tmp_path / "plan"


def same(batches, others):
    assert len(batches) == len(others) > 3
    for batch, other in zip(batches, others, strict=True):
        assert batch["ids"] == other["ids"]
        for key in ("input_ids", "labels", "position_ids", "pixel_values", "image_grid_thw"):
            torch.testing.assert_close(batch[key], other[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"rows": 1}, {"rows": 3}, {"rows": 2, "accumulation": 8}, {"rows": 2, "workers": 2}]
)
def test_batches_are_those_of_a_training_that_plans_itself(reader, plan, options):
    by_plan = loader_of(reader, plan=WrittenPlan(plan, reader), epochs=2, **options)
    same(list(by_plan), list(loader_of(reader, epochs=2, **options)))


def test_nothing_is_measured_while_a_plan_lasts_and_a_longer_run_goes_on_measuring(reader, plan, monkeypatch):
    written = WrittenPlan(plan, reader)
    alone = list(loader_of(reader, epochs=3))
    measured = []
    drafts = reader.drafts
    monkeypatch.setattr(reader, "drafts", lambda key, far: measured.append(key.epoch) or drafts(key, far))
    assert loader_of(reader, plan=written, epochs=2).count_packs() > 3
    assert measured == []
    same(list(loader_of(reader, plan=written, epochs=3)), alone)
    assert set(measured) == {2}


def test_two_ranks_with_a_plan_share_out_the_batches_without_telling_each_other_lengths(reader, plan):
    of_ranks = [
        list(loader_of(reader, plan=WrittenPlan(plan, reader), ranks=2, rank=rank, exchange=None)) for rank in (0, 1)
    ]
    together = [one for step in zip(*of_ranks, strict=True) for one in step]
    alone = list(loader_of(reader, accumulation=2))
    assert ids_of(together) == ids_of(alone)


def test_a_run_by_plan_goes_on_where_it_stopped(reader, plan):
    loader = loader_of(reader, plan=WrittenPlan(plan, reader), steps=9)
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(json.loads(json.dumps(loader.state_dict())))
    resumed = loader_of(reader, plan=WrittenPlan(plan, reader), steps=9)
    resumed.load_state_dict(states[3])
    same(list(resumed), batches[4:])


def test_packs_name_the_rows_that_they_hold(reader, plan, records):
    packs = pq.read_table(plan / PACKS).to_pylist()
    assert [one["pack"] for one in packs if (one["epoch"], one["round"]) == (0, 0)] == list(
        range(sum((one["epoch"], one["round"]) == (0, 0) for one in packs))
    )
    for epoch in (0, 1):
        samples = [sample for one in packs if one["epoch"] == epoch for sample in one["samples"]]
        assert sorted(sample["row"] for sample in samples) == list(range(len(records)))
        assert all(records[sample["row"]]["id"] == sample["id"] for sample in samples)
    assert all(sum(sample["tokens"] for sample in one["samples"]) <= 700 for one in packs)


def test_left_out_rows_are_told_as_if_the_data_had_been_measured(records, tmp_path, processor):
    data = [write_records([{**records[0], "width": 3}, *records[1:]], tmp_path / "data")]
    reader = reader_of(data, processor, mixture={"qa": 0, "doc": 100}, max_length=700)
    write_plan(reader, 700, 1, 1, tmp_path / "plan")

    def told(plan):
        rows, skipped = [], []
        loader = loader_of(reader, plan=plan, on_rows=lambda tried, some: (rows.append(tried), skipped.extend(some)))
        list(loader)
        return sum(rows), sorted(skipped)

    assert told(WrittenPlan(tmp_path / "plan", reader)) == told(None)
    assert len(told(None)[1]) > 10


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "seed 0, and this training has 1"),
        ({"mixture": {"qa": 1}}, "mixture"),
        ({"max_length": 800}, "max_length 700, and this training has 800"),
        ({"isolate_turns": True}, "isolate_turns"),
        ({"max_turns": 2}, "max_turns null, and this training has 2"),
        ({"window_rows": 8}, "window_rows"),
    ],
)
def test_the_plan_of_another_training_is_refused(reader_for, plan, other, said):
    with pytest.raises(ValueError, match=rf"was made with {said}.*finevit data pack"):
        WrittenPlan(plan, reader_for(**{"mixture": MIXTURE, "max_length": 700, **other}))


def test_another_tokenizer_or_other_picture_sizes_are_refused(reader_for, plan, processor):
    from finevit_vl import FineViTVLProcessor, build_qwen_tokenizer
    from modeling_finevit import FineViTImageProcessorPil

    others = {
        "tokenizer_sha256": FineViTVLProcessor(processor.image_processor, build_qwen_tokenizer(600)),
        "image_sizes": FineViTVLProcessor(FineViTImageProcessorPil(patch_size=16), processor.tokenizer),
    }
    for name, other in others.items():
        reader = reader_for(mixture=MIXTURE, max_length=700)
        reader.examples = Conversations(other, 700, mixture=MIXTURE)
        with pytest.raises(ValueError, match=f"was made with {name}"):
            WrittenPlan(plan, reader)


def test_other_data_is_refused_even_where_its_files_look_alike(records, tmp_path, processor):
    def reader(rows, folder, **options):
        return reader_of([write_records(rows, tmp_path / folder / "corpus", **options)], processor, mixture=MIXTURE)

    write_plan(reader(records, "a"), 2048, 1, 1, tmp_path / "plan")
    WrittenPlan(tmp_path / "plan", reader(records, "b"))
    with pytest.raises(ValueError, match="parts_sha256"):
        WrittenPlan(tmp_path / "plan", reader(records, "c", row_group_size=5))
    with pytest.raises(ValueError, match="other rows than `data` holds now"):
        WrittenPlan(tmp_path / "plan", reader(records[::-1], "d"))


def test_a_row_that_was_changed_behind_the_plan_s_back_ends_the_run_with_a_clear_word(records, tmp_path, processor):
    readers = []
    for name in ("a", "b"):
        rows = records if name == "a" else [*records[:-1], {**records[-1], "qa": [], "global_caption": "Other words."}]
        readers.append(reader_of([write_records(rows, tmp_path / name / "data")], processor, mixture=MIXTURE))
    write_plan(readers[0], 2048, 1, 1, tmp_path / "plan")
    plan = WrittenPlan(tmp_path / "plan", readers[0])
    with pytest.raises(ValueError, match=r"#47 has \d+ tokens and \d+ when it was planned: the data has been changed"):
        list(loader_of(readers[1], plan=plan))


def test_a_folder_of_something_else_is_left_alone_and_a_plan_is_replaced(reader, plan, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a plan"):
        write_plan(reader, 700, 1, 1, tmp_path / "photos")
    assert (tmp_path / "photos" / "a.txt").read_text() == "mine"
    before = (plan / PACKS).read_bytes()
    write_plan(reader, 700, 1, 2, plan)
    assert (plan / PACKS).read_bytes() == before
    with pytest.raises(ValueError, match="photos holds no plan"):
        WrittenPlan(tmp_path / "photos", reader)


@pytest.mark.parametrize("name", ["plan.json", "rounds.json", "packs.parquet", "rejects.parquet"])
def test_a_plan_whose_file_is_cut_off_or_gone_is_none(reader, plan, name):
    whole = (plan / name).read_bytes()
    (plan / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"holds no plan: .*; `finevit data pack` writes one"):
        WrittenPlan(plan, reader)
    (plan / name).unlink()
    with pytest.raises(ValueError, match=r"holds no plan: .*; `finevit data pack` writes one"):
        WrittenPlan(plan, reader)


def test_two_do_not_write_one_plan(reader, plan):
    before = {path.name: path.read_bytes() for path in plan.iterdir()}
    with claimed(plan), pytest.raises(ValueError, match="is being written by another process"):
        write_plan(reader, 700, 1, 1, plan)
    assert {path.name: path.read_bytes() for path in plan.iterdir()} == before


def test_data_in_which_nothing_can_be_asked_makes_no_plan(reader_for, tmp_path):
    with pytest.raises(ValueError, match="every row was left out"):
        write_plan(reader_for(mixture={"qa": 0}), 2048, 1, 1, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_a_curriculum_is_planned_for_its_number_of_epochs(recipe_for, nano_corpus, tmp_path):
    from finevit_training.stages.sft.model import build_processor
    from finevit_training.stages.sft.stage import build_reader, build_trainer

    flags = {"mixture": json.dumps(CURRICULUM), "max_steps": -1, "num_train_epochs": 2}
    recipe = recipe_for(**flags)
    write_plan(build_reader(recipe, build_processor(recipe.model)), 1024, 1, 2, tmp_path / "plan")
    by_plan, alone = (build_trainer(recipe_for(**flags, **more)) for more in ({"plan": tmp_path / "plan"}, {}))
    assert by_plan.args.max_steps == alone.args.max_steps
    same(list(by_plan.loader), list(alone.loader))
    for length in ({"max_steps": -1, "num_train_epochs": 1}, {"max_steps": 5}):
        with pytest.raises(ValueError, match="curriculum over 2 epochs"):
            build_trainer(recipe_for(mixture=flags["mixture"], plan=tmp_path / "plan", **length))


def test_packs_are_in_the_order_of_training_and_of_so_many_packs_a_step(recipe_for, tmp_path):
    from finevit_training.stages.sft.model import build_processor
    from finevit_training.stages.sft.stage import build_reader, build_trainer

    flags = {"mixture": json.dumps(MIXTURE), "max_steps": 5, "plan": tmp_path / "plan"}
    recipe = recipe_for(**flags, per_device_train_batch_size=2)
    reader = build_reader(recipe, build_processor(recipe.model))
    write_plan(reader, 1024, 2, 2, tmp_path / "plan")
    packs = pq.read_table(tmp_path / "plan" / PACKS).column("samples").to_pylist()
    trained = ids_of(build_trainer(recipe).loader)
    assert len(trained) > 10
    assert trained == [sample["id"] for pack in packs[:10] for sample in pack]
    with pytest.raises(ValueError, match=r"was made with streams 16, .* has 32 \(the packs of .*`--step`\)"):
        build_trainer(recipe_for(**flags, per_device_train_batch_size=4))
