"""Recipes of stage II: where the towers come from, and what is refused."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoProcessor, Siglip2Config, Siglip2Model

from finevit_training.recipe import read_recipe
from finevit_training.stages.contrastive.model import build_model, build_processor
from finevit_training.stages.contrastive.stage import STAGE, build_trainer, model_facts
from finevit_training.stages.running import prepare_run, train
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.pretraining.text_tower import stretch_positions
from tests.support.contrastive_runs import dual_recipe
from tests.support.dual_cases import make_dual, make_processor, small_siglip2_tokenizer
from tests.support.encoder_cases import make_model
from tests.support.paths import NANO
from tests.support.training_data import write_records

SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An encoder, a SigLIP 2 as wide and one that is not, and both towers of another run."""
    folder = tmp_path_factory.mktemp("folders")
    make_model().save_pretrained(folder / "vision")
    FineViTImageProcessorPil().save_pretrained(folder / "vision")
    processor = make_processor(16)
    for name, width in (("text", 128), ("narrow", 32)):
        fields = SMALL_TEXT | {"vocab_size": 20, "max_position_embeddings": 16}
        fields |= {"projection_size": width}
        torch.manual_seed(0)
        Siglip2Model(Siglip2Config(text_config=fields, vision_config={"num_hidden_layers": 1})).save_pretrained(
            folder / name
        )
        small_siglip2_tokenizer().save_pretrained(folder / name)
    make_dual(processor).save_pretrained(folder / "dual")
    processor.save_pretrained(folder / "dual")
    return folder


def built(**flags):
    recipe = dual_recipe(data="x", **flags)
    processor = build_processor(recipe.model)
    return build_model(recipe.model, processor), processor


FROM_FOLDERS = {"size": None, "vocab_size": None, "vision_config": None, "text_config": None}


def test_both_towers_from_folders_with_positions_stretched(folders):
    flags = FROM_FOLDERS | {"vision": folders / "vision", "text": folders / "text", "text_length": 64}
    model, processor = built(**flags, position_stretch="linear")
    tower = Siglip2Model.from_pretrained(folders / "text").text_model
    stretched = stretch_positions(tower.embeddings.position_embedding.weight, 64, "linear")
    assert torch.equal(model.text_model.embeddings.position_embedding.weight, stretched)
    assert torch.equal(model.vision_model.norm.weight, make_model().norm.weight)
    assert processor.text_length == model.config.text_length == 64
    assert model.config.text_config.pad_token_id == processor.tokenizer.pad_token_id
    assert model.logit_bias.item() == -10


def test_an_encoder_from_a_folder_and_a_text_tower_from_scratch(folders):
    model, processor = built(vision=folders / "vision", vision_config=None)
    assert torch.equal(model.vision_model.norm.weight, make_model().norm.weight)
    assert model.config.text_config.num_hidden_layers == 1
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    end = processor.tokenizer.eos_token_id
    assert end in processor(text="a chart")["input_ids"][0]


def test_both_towers_of_a_model_go_on(folders):
    flags = FROM_FOLDERS | {"text_length": None, "model": folders / "dual"}
    model, processor = built(**flags)
    assert torch.equal(model.pooling.queries, make_dual(make_processor(16)).pooling.queries)
    assert processor.text_length == 16
    assert processor.image_processor.size["longest_edge"] == 12_544


def test_scale_and_bias_are_parts_with_a_rate_of_their_own(nano_corpus, tmp_path):
    flags = {"data": nano_corpus, "output_dir": tmp_path, "max_steps": 1}
    trainer = build_trainer(dual_recipe(**flags, logit_learning_rate=0.5, text_learning_rate=0.25))
    rates = {group["name"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {"tower": 1e-3, "pooling": 1e-3, "text": 0.25, "logits": 0.5}
    facts = model_facts(trainer.model)
    assert facts["parameters"] == sum(parameter.numel() for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"size": None}, "no `vision` is given"),
        ({**FROM_FOLDERS, "vision": "vision"}, "no `text` is given"),
        ({"model": "dual"}, "`model` holds both towers"),
        ({**FROM_FOLDERS, "size": "nano", "vision": "vision", "text": "text"}, "size would have no effect"),
        ({"vision": "vision"}, "vision_config would have no effect"),
        ({**FROM_FOLDERS, "model": "dual"}, "text_length would have no effect"),
        ({"position_stretch": "linear"}, "position_stretch would have no effect"),
        ({"gradient_accumulation_steps": 2}, "cache_pairs where they need too much memory"),
        ({"max_pixels": '[{"until": 0.5, "max_pixels": 9}]'}, "whose `until` grow to 1"),
        ({"captions": '{"dense": 0}'}, "give at least one of"),
        ({"text_config": '{"max_position_embeddings": 10}'}, "the recipe's text_length decides it; leave it out"),
        (
            {"text_config": '{"num_layers": 1}'},
            r"text_config: \['num_layers'\]; see Siglip2TextConfig; did you mean nu",
        ),
        ({"vision_config": '{"target_norm": "l2"}'}, "target_norm in vision_config would have no effect: stage I's"),
        ({"vision_config": "[1]"}, r"vision_config is \[1\]; expected a mapping of fields of FineViTConfig"),
        ({"captions": "{}"}, "the captions are {}; give at least one of"),
        ({"captions": '["dense"]'}, r"the captions are \['dense'\]; expected a weight for some of global, short"),
        ({"attn_implementation": '{"vision": "eager"}'}, r"names \['vision'\]; expected vision_config, text_config"),
        ({"text_frozen_share": 2}, "expected a share of the"),
        ({"cache_pairs": 0}, "expected a number of pairs"),
        ({"cache_pairs": 8}, "cache_pairs: 8 would have no effect: a step has 8 pairs on a device"),
        ({"max_regions": 2}, "max_regions would have no effect with region_weight: 0"),
        ({"region_weight": -1}, "region_weight is -1.0; expected a finite number"),
        ({"text_learning_rate": -1}, "text_learning_rate is -1.0; expected a finite number >= 0"),
        ({"logit_learning_rate": float("nan")}, "logit_learning_rate is nan; expected a finite number >= 0"),
        ({"text_learning_rate": float("inf")}, "text_learning_rate is inf"),
        ({"text_frozen_share": 1, "text_learning_rate": 0.1}, "text_learning_rate would have no effect with"),
        ({"num_pooling_queries": 0}, "num_pooling_queries is 0; expected a finite number >= 1"),
        ({"text_length": 0}, "text_length is 0; expected a finite number >= 1"),
        ({"text_length": -3}, "text_length is -3"),
    ],
)
def test_recipes_that_make_no_run_are_refused(flags, word):
    with pytest.raises(ValueError, match=word):
        dual_recipe(data="x", **flags)


@pytest.mark.parametrize("config", [{"spatial_merge_size": 1}, {"spatial_merge_size": 4}, {"patch_size": 16}])
def test_a_processor_from_scratch_packs_as_the_encoder_reads(config, nano_corpus, tmp_path):
    flags = {"vision_config": json.dumps({"num_hidden_layers": 1, **config}), "max_steps": 1}
    out = train(prepare_run(STAGE, dual_recipe(data=nano_corpus, output_dir=tmp_path, **flags)))
    images, vision = AutoProcessor.from_pretrained(out).image_processor, AutoConfig.from_pretrained(out).vision_config
    assert (images.patch_size, images.merge_size) == (vision.patch_size, vision.spatial_merge_size)
    assert config.items() <= vision.to_dict().items()


def test_a_text_tower_with_fewer_tokens_than_the_tokenizer_is_refused():
    with pytest.raises(ValueError, match="vocab_size in text_config is 100, and the tokenizer has 538 tokens"):
        built(text_config='{"vocab_size": 100}')
    model, _ = built(text_config='{"vocab_size": 600, "num_hidden_layers": 1}')
    assert model.config.text_config.vocab_size == 600


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"vision": "vision", "text": "narrow"}, "32 wide, the encoder's 128: take towers of one width"),
        ({"vision": "text", "text": "text"}, "`vision` is .*, a siglip2; expected"),
        ({"vision": "vision", "text": "vision"}, "`text` is .*, a finevit; expected"),
        ({"model": "vision", "text_length": None}, "a finevit; expected a finevit_dual; give it as `vision`$"),
        ({"vision": "nowhere", "text": "text"}, "does not exist"),
        ({"vision": "vision", "text": "text", "text_length": 8}, "16 positions cannot become one of 8"),
    ],
)
def test_folders_that_do_not_fit_are_refused(flags, word, folders):
    given = {name: folders / value if isinstance(value, str) else value for name, value in flags.items()}
    with pytest.raises(ValueError, match=word):
        built(**(FROM_FOLDERS | given))


def test_the_checkpoint_of_supervised_fine_tuning_is_no_model_of_this_stage_but_holds_an_encoder():
    with pytest.raises(ValueError, match="a finevit_vl; expected"):
        built(**FROM_FOLDERS, text_length=None, model=NANO)
    model, _ = built(vision=NANO, vision_config=None)
    assert model.config.vision_config.hidden_size == 128


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"text_length": 32}, r"text_config\.max_position_embeddings 24 \(here 32\); .*text_length"),
        ({"vision_config": '{"num_hidden_layers": 2}'}, r"vision_config\.num_hidden_layers 1 \(here 2\)"),
        ({"captions": '{"short": 1}'}, "another mixture, .* captions"),
    ],
)
def test_a_checkpoint_of_another_size_or_of_other_captions_is_refused(nano_corpus, tmp_path, changed, word):
    begun = {"data": nano_corpus, "output_dir": tmp_path, "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    build_trainer(dual_recipe(**begun)).train()
    again = begun | {"max_steps": 2, "resume_from_checkpoint": "last"}
    prepare_run(STAGE, dual_recipe(**again))
    with pytest.raises(ValueError, match=word):
        prepare_run(STAGE, dual_recipe(**(again | changed)))


def test_data_without_any_caption_ends_with_one_clear_sentence(records, tmp_path):
    lacking = [{**record, "global_caption": None, "captions": []} for record in records[:8]]
    flags = {"data": write_records(lacking, tmp_path / "data"), "output_dir": tmp_path / "out", "max_steps": 1}
    with pytest.raises(ValueError, match=r"8 x no caption.*Mend the data: pairs need captions, [^.]*$"):
        build_trainer(dual_recipe(**flags)).train()


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no"):
        build_trainer(dual_recipe(data=write_records([], tmp_path / "data"), output_dir=tmp_path / "out", max_steps=1))


def test_the_nano_recipe_cuts_no_caption_of_the_nano_corpus(records):
    recipe = read_recipe("contrastive/nano_cpu")
    _, processor = built(vocab_size=recipe["vocab_size"], text_length=recipe["text_length"])
    texts = [caption["text"] for record in records for caption in record["captions"] or []]
    lengths = [len(processor.tokenizer(text, padding=False, truncation=False)["input_ids"]) for text in texts]
    assert 64 < max(lengths) <= recipe["text_length"]


def test_the_papers_recipe_says_what_the_paper_says():
    from finevit_training.recipe import parse_recipe
    from finevit_training.stages.contrastive.arguments import CONTRASTIVE_PARTS

    recipe = parse_recipe(["--recipe", "contrastive/paper", "--data", "x"], CONTRASTIVE_PARTS)
    training, model = recipe.training, recipe.model
    assert training.per_device_train_batch_size * 8 == 49_152
    assert training.max_steps * 49_152 == pytest.approx(9.3e9, rel=1e-5)
    assert [tuple(one) for one in model.budgets] == [(0.8, 336**2), (1.0, 448**2)]
    assert (training.learning_rate, training.weight_decay, training.warmup_steps) == (1e-4, 1e-4, 2000)
    assert training.learning_rate * training.lr_scheduler_kwargs["min_lr_rate"] == pytest.approx(1.2e-6)
