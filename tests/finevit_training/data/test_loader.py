"""Every sample once an epoch, the same batches for any number of processes, and a position to go on from."""

import copy
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from finecap.sources.door import Source
from finecap.tasks.wording import load_wordings
from finevit_training.data.bad_records import UnusableData
from finevit_training.data.loader import Position
from finevit_training.data.order import RoundKey
from finevit_vl import build_qwen_tokenizer
from finevit_vl.processing_finevit_vl import set_pixel_budget
from tests.support.training_data import ids_of, lengths_of_all_windows, loader_of, reader_of, write_records

MIXTURE = {"qa": 100, "transcribe": 1, "global_caption": 1}


@pytest.fixture
def reader(reader_for):
    return reader_for(mixture=MIXTURE, max_length=700)


def test_an_epoch_has_every_row_once(reader, records):
    batches = list(loader_of(reader))
    assert Counter(ids_of(batches)) == Counter(record["id"] for record in records)
    assert {epoch for batch in batches for epoch in batch["epochs"]} == {0}


def test_two_epochs_have_every_row_twice_in_another_order(reader, records):
    batches = list(loader_of(reader, epochs=2))
    assert Counter(ids_of(batches)) == Counter({record["id"]: 2 for record in records})
    first, second = (ids_of(batches)[start:][: len(records)] for start in (0, len(records)))
    assert first != second


def test_a_weight_reads_a_source_so_many_times_an_epoch(records, tmp_path, processor):
    folders = [write_records(part, tmp_path / name) for name, part in (("a", records[:24]), ("b", records[24:]))]
    data = [{"path": folders[0], "weight": 2.5}, folders[1]]
    seen = Counter(ids_of(loader_of(reader_of(data, processor, mixture=MIXTURE))))
    assert {seen[record["id"]] for record in records[24:]} == {1}
    assert {seen[record["id"]] for record in records[:24]} == {2, 3}
    assert sum(seen[record["id"]] for record in records[:24]) == 60


def test_rows_of_tokens_are_full(reader_for):
    reader = reader_for(mixture=MIXTURE, max_length=2048, window_rows=48)
    batches = list(loader_of(reader, epochs=4))[:-1]
    real = sum(int(batch["lengths"].sum()) for batch in batches)
    assert real >= 0.9 * sum(batch["input_ids"].numel() for batch in batches)


def test_the_packs_of_an_epoch_are_counted_before_a_picture_is_decoded(reader, monkeypatch):
    expected = len(list(loader_of(reader)))
    monkeypatch.setattr("finevit_training.examples.decoding.open_reduced", None)
    assert loader_of(reader).count_packs() == expected


def same(batch, other):
    assert batch["ids"] == other["ids"]
    for key in ("input_ids", "labels", "position_ids", "pixel_values", "image_grid_thw"):
        torch.testing.assert_close(batch[key], other[key], rtol=0, atol=0)


def test_loader_processes_change_no_batch(reader):
    alone, helped = (list(loader_of(reader, rows=2, steps=12, workers=workers)) for workers in (0, 3))
    assert len(alone) == 12
    for one, other in zip(alone, helped, strict=True):
        same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_after_any_step_as_if_it_had_never_stopped(reader, workers):
    loader = loader_of(reader, rows=2, steps=14)
    whole, states = [], [json.dumps(loader.state_dict())]
    for batch in loader:
        whole.append(batch)
        states.append(json.dumps(loader.state_dict()))
    for stopped in (0, 1, 5, 6, 13):
        resumed = loader_of(reader, rows=2, steps=14, workers=workers)
        resumed.load_state_dict(json.loads(states[stopped]))
        rest = list(resumed)
        assert len(rest) == 14 - stopped
        for one, other in zip(whole[stopped:], rest, strict=True):
            same(one, other)
    assert ids_of(whole[1:]) != ids_of(whole[:-1])


def ranks_of(reader, ranks, rows, accumulation=1, start=None, steps=6):
    """The loader of each rank of a run, and its batches."""
    told = lengths_of_all_windows(reader)
    loaders = []
    for rank in range(ranks):
        shape = {"rows": rows, "accumulation": accumulation, "ranks": ranks, "rank": rank}
        loaders.append(loader_of(reader, **shape, steps=steps, exchange=lambda mine: [mine, told]))
        if start is not None:
            loaders[-1].load_state_dict(start)
    return [(loader, iter(loader)) for loader in loaders]


def samples_of_steps(loaders, accumulation=1):
    """The samples of each step, over all ranks."""
    steps = []
    while True:
        step = []
        for _, batches in loaders:
            for _ in range(accumulation):
                batch = next(batches, None)
                step += [] if batch is None else batch["ids"]
        if not step:
            return steps
        steps.append(step)


@pytest.mark.parametrize(("ranks", "rows", "accumulation"), [(2, 2, 1), (4, 1, 1), (2, 1, 2)])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(reader, ranks, rows, accumulation):
    alone = samples_of_steps(ranks_of(reader, 1, 4))
    shared = samples_of_steps(ranks_of(reader, ranks, rows, accumulation), accumulation)
    assert shared == alone


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ranks_with_fewer_windows_exchange_between_the_same_batches(reader_for, workers):
    reader = reader_for(mixture=MIXTURE, window_rows=48)
    told = lengths_of_all_windows(reader, epochs=8)
    events = []
    for rank in (0, 1):
        events.append([])
        exchange = lambda mine, of_rank=events[rank]: of_rank.append("exchange") or [mine, told]  # noqa: E731
        for _ in loader_of(reader, rows=4, ranks=2, rank=rank, steps=5, exchange=exchange, workers=workers):
            events[rank].append("batch")
    assert len(reader.order.windows(RoundKey(0, 0))) == 1, "a rank has no window"
    assert events[0] == events[1]


def test_a_run_goes_on_on_another_number_of_ranks(reader):
    whole = samples_of_steps(ranks_of(reader, 1, 4))
    loaders = ranks_of(reader, 2, 2)
    begun = [[name for _, batches in loaders for name in next(batches)["ids"]] for _ in range(2)]
    state = loaders[0][0].state_dict()
    assert state == loaders[1][0].state_dict()
    assert begun + samples_of_steps(ranks_of(reader, 4, 1, start=state)) == whole


def test_a_position_is_a_few_integers(reader):
    loader = loader_of(reader, steps=3)
    list(loader)
    state = loader.state_dict()
    assert set(state) == {*Position._fields, "fractions", "step", "capacity", "order", "questions"}
    assert len(json.dumps(state)) < 200


@pytest.mark.parametrize("change", ["another step", "another length", "another seed", "another file"])
def test_a_position_in_another_order_is_refused(reader, reader_for, records, tmp_path, processor, change):
    loader = loader_of(reader, rows=2, steps=3)
    next(iter(loader))
    other = {
        "another step": lambda: loader_of(reader, rows=1, steps=3),
        "another length": lambda: loader_of(reader_for(mixture=MIXTURE, max_length=900), rows=2, steps=3),
        "another seed": lambda: loader_of(reader_for(mixture=MIXTURE, max_length=700, seed=1), rows=2, steps=3),
        "another file": lambda: loader_of(
            reader_of([write_records(records[:40], tmp_path / "a")], processor, max_length=700), rows=2, steps=3
        ),
    }[change]()
    with pytest.raises(ValueError, match="saved run"):
        other.load_state_dict(loader.state_dict())
    loader_of(reader, rows=1, accumulation=2, steps=3).load_state_dict(loader.state_dict())


def test_data_in_which_nothing_can_be_asked_says_so(records, tmp_path, processor):
    mute = [{**record, "qa": [], "regions": [], "global_caption": None} for record in records[:10]]
    reader = reader_of([write_records(mute, tmp_path / "mute")], processor, mixture=MIXTURE)
    said = r"nothing in `data` can be trained on: .*10 x nothing can be asked about it .*it has no words"
    with pytest.raises(UnusableData, match=said):
        next(iter(loader_of(reader, steps=3)))
    assert list(loader_of(reader)) == []


def test_a_state_in_the_middle_of_a_step_is_the_end_of_the_step_before(reader):
    loader = loader_of(reader, accumulation=3, steps=6)
    states, whole = [loader.state_dict()], []
    for batch in loader:
        whole.append(batch)
        states.append(loader.state_dict())
    for taken in range(3, 9):
        assert states[taken] == states[taken // 3 * 3]
        resumed = loader_of(reader, accumulation=3, steps=6)
        resumed.load_state_dict(json.loads(json.dumps(states[taken])))
        assert ids_of(resumed) == ids_of(whole[taken // 3 * 3 :])


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"rows": 1}, "a step has 1 packs here and 2 in the saved run"),
        ({"rows": 2, "accumulation": 2}, "a step has 4 packs"),
        ({"max_length": 800}, "a row holds 800 here and 700"),
        ({"seed": 4}, "another seed, other files or other weights"),
        ({"window_rows": 32}, "another seed, other files or other weights"),
        ({"mixture": {**MIXTURE, "qa": 1}}, "another mixture"),
        ({"max_turns": 2}, "max_turns"),
        ({"isolate_turns": True}, "isolate_turns"),
        ({"wordings": load_wordings("several")}, "wordings"),
        ({"tokens": 600}, "tokenizer"),
        ({"pixels": 56 * 56}, "picture size"),
    ],
)
def test_a_state_of_a_run_whose_packs_are_others_is_refused(reader_for, processor, other, word):
    def loader(rows=2, accumulation=1, tokens=None, pixels=None, **flags):
        reader = reader_for(**{"mixture": MIXTURE, "max_length": 700, **flags})
        reader.examples.processor = copy.deepcopy(processor)
        if tokens:
            reader.examples.processor.tokenizer = build_qwen_tokenizer(tokens)
        set_pixel_budget(reader.examples.processor.image_processor, None, pixels)
        return loader_of(reader, rows, accumulation=accumulation, steps=9)

    begun = loader()
    next(iter(begun))
    state = json.loads(json.dumps(begun.state_dict()))
    with pytest.raises(ValueError, match=word):
        loader(**other).load_state_dict(state)
    loader().load_state_dict(state)


def test_a_state_of_a_run_on_other_files_of_as_many_rows_is_refused(records, tmp_path, processor):
    def loader(folder, name):
        table = pq.read_table(next(Path(folder).glob("data/*.parquet")))
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "data" / f"train-{name}.parquet", row_group_size=8)
        return loader_of(reader_of([str(tmp_path / name)], processor, mixture=MIXTURE), steps=3)

    folder = write_records(records, tmp_path / "written")
    begun = loader(folder, "one")
    next(iter(begun))
    with pytest.raises(ValueError, match="other files"):
        loader(folder, "two").load_state_dict(begun.state_dict())
    moved = (tmp_path / "one").rename(tmp_path / "moved")
    loader_of(reader_of([str(moved)], processor, mixture=MIXTURE), steps=3).load_state_dict(begun.state_dict())


def test_the_same_step_in_another_shape_goes_on(reader):
    begun, shaped = loader_of(reader, rows=4, steps=6), loader_of(reader, rows=1, accumulation=4, steps=6)
    iterator = iter(begun)
    next(iterator)
    shaped.load_state_dict(begun.state_dict())
    assert ids_of(shaped) == ids_of(iterator)


CURRICULUM = [{"until": 0.34, "mixture": {"qa": 1}}, {"until": 1.0, "mixture": {"transcribe": 1, "global_caption": 1}}]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_round_is_at_the_same_time_of_the_clock_in_a_run_that_goes_on(records, tmp_path, processor, rows, workers):
    """The clock here counts the steps that are trained."""
    data = [write_records(records, tmp_path / "parts", row_group_size=4)]
    reader = reader_of(data, processor, mixture=CURRICULUM, max_length=500, window_rows=8, streams=2)
    steps = 24

    def run(start=None, first=0):
        read, clock = {}, [first]

        def fraction(key, step):
            read[key] = clock[0]
            return clock[0] / steps

        loader = loader_of(reader, rows, steps=steps, workers=workers)
        loader.fraction = fraction
        if start is not None:
            loader.load_state_dict(json.loads(start))
        batches, states = [], [json.dumps(loader.state_dict())]
        for batch in loader:
            clock[0] += 1
            batches.append(batch)
            states.append(json.dumps(loader.state_dict()))
        return batches, states, read

    whole, states, read = run()
    assert len(set(read.values())) > 4, "rounds begin at different times"
    for stopped in (*range(8), 13, 19):
        rest, _, again = run(states[stopped], stopped)
        common = again.keys() & read.keys()
        assert {key: again[key] for key in common} == {key: read[key] for key in common}
        for one, other in zip(whole[stopped:], rest, strict=True):
            same(one, other)


@pytest.mark.parametrize(("workers", "most"), [(1, 1.0), (2, 1.25), (4, 1.25), (5, 9.0)])
def test_a_loader_process_reads_its_own_parts(records, tmp_path, processor, monkeypatch, workers, most):
    short = [record for record in records if record["source"] != "finevit-docs"]
    many = [{**record, "id": f"{i} {record['id']}"} for i in range(32) for record in short]
    data = [write_records(many, tmp_path / "many", row_group_size=16)]
    reader = reader_of(data, processor, mixture={"qa": 1}, max_length=384, window_rows=144, streams=8)
    assert len(reader.order.windows(RoundKey(0, 0))) == 8
    read = Source.read_pictures
    log = tmp_path / "read"

    def logged(source, part, rows):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {part.path} {part.start}\n")
        return read(source, part, rows)

    monkeypatch.setattr(Source, "read_pictures", logged)
    assert len(ids_of(loader_of(reader, workers=workers))) == len(many)
    pairs = set(log.read_text().splitlines())
    share = len(pairs) / len(reader.parts)
    assert share <= most
    if workers == 5:
        assert share > 2, "a number of processes that does not divide the windows reads parts several times"
