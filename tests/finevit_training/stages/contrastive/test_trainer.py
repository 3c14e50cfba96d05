"""The step of stage II: plain and cached alike, a text tower that waits, and what a step costs."""

import pytest
import torch

from finevit_training.data.bad_records import UnusableData
from finevit_training.stages.contrastive.stage import build_trainer
from finevit_training.stages.contrastive.trainer import split_pairs
from modeling_finevit.pretraining.sigmoid_loss import pair_logits
from tests.support.contrastive_runs import dual_recipe
from tests.support.dual_cases import plain_sigmoid_loss
from tests.support.training_data import write_records


@pytest.fixture
def trainer_of(nano_corpus, tmp_path):
    def make(**flags):
        return build_trainer(dual_recipe(**{"data": nano_corpus, "output_dir": tmp_path, "max_steps": 3, **flags}))

    return make


def curve(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_the_loss_is_that_of_all_pairs_of_the_step(trainer_of):
    trainer = trainer_of()
    batch = next(iter(trainer.get_train_dataloader()))
    (images, texts), (scale, bias) = trainer.encode(trainer.model, batch)
    expected = plain_sigmoid_loss(images, texts, scale, bias, batch["caption_ids"])
    torch.testing.assert_close(trainer.stage_loss(trainer.model, batch, None), expected)


def shapes_kept_by(action):
    """Of the tensors that the backward pass keeps of it."""
    shapes = []

    def keep(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        action()
    return shapes


def test_a_step_keeps_no_matrix_of_all_pairs(trainer_of):
    trainer = trainer_of()
    batch = next(iter(trainer.get_train_dataloader()))
    matrix = (len(batch["ids"]),) * 2
    assert matrix not in shapes_kept_by(lambda: trainer.stage_loss(trainer.model, batch, None))
    # Negative control: logits, which zero-shot classification wants.
    (images, texts), (scale, bias) = trainer.encode(trainer.model, batch)
    assert matrix in shapes_kept_by(lambda: pair_logits(images, texts, scale, bias))


def test_caching_gradients_gives_the_run_without(trainer_of):
    plain, cached = trainer_of(), trainer_of(cache_pairs=3)
    plain.train()
    cached.train()
    assert curve(cached) == pytest.approx(curve(plain), rel=1e-5)


@pytest.mark.parametrize("cache", [None, 3])
def test_the_term_of_regions_is_the_loss_of_their_embeddings_times_its_weight(trainer_of, cache):
    trainer = trainer_of(region_weight=0.5, max_regions=2, cache_pairs=cache)
    batch = next(iter(trainer.get_train_dataloader()))
    (images, texts, regions, region_texts), others = trainer.encode(trainer.model, batch)
    assert len(regions) == len(batch["regions"]["boxes"]) > 4
    pairs = plain_sigmoid_loss(images, texts, *others, batch["caption_ids"])
    of_regions = plain_sigmoid_loss(regions, region_texts, *others, batch["regions"]["caption_ids"])
    found = trainer.training_step(trainer.model, batch, len(batch["ids"]))
    torch.testing.assert_close(found, (pairs + 0.5 * of_regions).detach())
    assert of_regions > 0.1


def test_a_batch_without_any_region_has_the_loss_of_its_pairs(trainer_of):
    trainer = trainer_of(region_weight=0.5)
    batch = next(iter(trainer.get_train_dataloader()))
    for name in ("boxes", "image_index", "input_ids", "caption_ids"):
        batch["regions"][name] = batch["regions"][name][:0]
    expected = trainer.stage_loss(trainer.model, {**batch, "regions": None}, None)
    torch.testing.assert_close(trainer.stage_loss(trainer.model, batch, None), expected)


def test_captions_that_come_again_within_a_step_are_counted(trainer_of, records, tmp_path):
    same = [{**record, "global_caption": "One caption.", "captions": []} for record in records[:8]]
    trainer = trainer_of(data=write_records(same, tmp_path / "data"), max_steps=1)
    trainer.train()
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["repeated_captions"] == pytest.approx(7 / 8)


@pytest.mark.parametrize("epochs", [{}, {"max_steps": -1, "num_train_epochs": 1}])
def test_a_step_that_an_epoch_does_not_fill_is_refused_before_anything_is_trained(
    trainer_of, records, tmp_path, epochs
):
    captioned = [record for record in records if record["global_caption"]][:12]
    others = [{**one, "id": f"{one['id']}-other", "global_caption": None, "captions": []} for one in captioned]
    data = write_records([*captioned, *others], tmp_path / "data")
    trainer = trainer_of(data=data, per_device_train_batch_size=13, **epochs)
    before = weights(trainer)
    with pytest.raises(UnusableData, match=r"a step takes 13 pairs, more than an epoch of the data has"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
    trainer_of(data=data, per_device_train_batch_size=12, **epochs).train()


def test_windows_are_no_larger_than_pairs_need(trainer_of):
    assert trainer_of(per_device_train_batch_size=512).loader.order.window_rows == 128


def test_chunks_hold_each_pair_once(trainer_of):
    batch = next(iter(trainer_of().get_train_dataloader()))
    chunks = split_pairs(batch, 3)
    assert [len(chunk["input_ids"]) for chunk in chunks] == [3, 3, 2]
    for name in ("input_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(torch.cat([chunk[name] for chunk in chunks]), batch[name])


@pytest.mark.parametrize("cache", [None, 3])
def test_the_text_tower_waits_for_its_share_of_the_training_and_learns_then(trainer_of, cache):
    trainer = trainer_of(max_steps=4, text_frozen_share=0.5, weight_decay=0.1, cache_pairs=cache)
    before, seen = weights(trainer), []
    step = trainer.training_step

    def watched(*args, **kwargs):
        seen.append(weights(trainer))
        return step(*args, **kwargs)

    trainer.training_step = watched
    trainer.train()
    in_text = [name for name in before if name.startswith("text_model.")]
    assert all(torch.equal(seen[2][name], before[name]) for name in in_text)
    assert not all(torch.equal(seen[3][name], before[name]) for name in in_text)
    assert not torch.equal(seen[1]["pooling.queries"], before["pooling.queries"])


def test_a_frozen_text_tower_costs_a_third(trainer_of):
    trainer = trainer_of()
    batch = next(iter(trainer.get_train_dataloader()))
    work = trainer.work_counter()
    whole = work(batch)
    for parameter in trainer.model.text_model.parameters():
        parameter.requires_grad_(False)
    assert whole.flops - work(batch).flops == pytest.approx(2 * len(batch["ids"]) * work.text)
    assert (whole.images, whole.positions) == (8, 8 * 24)
    assert whole.tokens == int(batch["lengths"].sum())


def test_the_count_of_flops_is_pytorchs(trainer_of):
    from torch.utils.flop_counter import FlopCounterMode

    trainer = trainer_of(attn_implementation="eager")
    batch = next(iter(trainer.get_train_dataloader()))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        trainer.encode(trainer.model, batch)
    assert trainer.work_counter()(batch).flops / 3 == pytest.approx(counted.get_total_flops(), rel=0.005)


def test_the_loss_of_an_evaluation_is_that_of_its_batches(trainer_of):
    trainer = trainer_of(eval_strategy="steps", eval_split="train", per_device_eval_batch_size=5)
    batches = list(trainer.get_eval_dataloader())
    losses = [trainer.stage_loss(trainer.model.eval(), batch, None).item() for batch in batches]
    counts = [len(batch["ids"]) for batch in batches]
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_work_of_a_step_knows_that_the_text_tower_waits_in_the_first_one_already(trainer_of):
    trainer = trainer_of(max_steps=2, text_frozen_share=0.5)
    trainer.train()
    expected = []
    for batch, learns in zip(trainer_of(max_steps=2).get_train_dataloader(), (False, True), strict=False):
        trainer.model.text_model.requires_grad_(learns)
        expected.append(int(trainer.work_counter()(batch).flops))
    assert trainer.state.total_flos == sum(expected)
