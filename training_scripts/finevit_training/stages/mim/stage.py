"""Stage I, masked image modelling: what it is built of."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import set_seed

from finevit_training.examples.masking import MaskedPictures
from finevit_training.loop.loading import loader_for
from finevit_training.loop.support import refuse_setup
from finevit_training.recipe import Recipe
from finevit_training.stage import Stage
from finevit_training.stages.encoder import build_image_processor
from finevit_training.stages.folders import checked_model
from finevit_training.stages.mim.arguments import MaskedModelArguments
from finevit_training.stages.mim.drawing import Shown, draw_features, draw_pixels
from finevit_training.stages.mim.teacher_features import FeatureCache, TeacherFeatures
from finevit_training.stages.mim.trainer import MaskedTrainer
from finevit_training.stages.running import open_eval_reader, open_reader, set_length
from modeling_finevit import FineViTConfig, FineViTForMaskedImageModeling
from modeling_finevit.image_processing_pil_finevit import scaling_of
from modeling_finevit.pretraining.teacher import Teacher

DRAWN_PICTURES = 6
DRAWING = "predictions.png"


def build_trainer(recipe: Recipe) -> MaskedTrainer:
    """Everything that a run needs, ready for `train()`.

    Raises:
        ValueError: the recipe asks for something that is not there.
    """
    args, asked = recipe.training, recipe.model
    refuse_setup(args, lora=False)
    image_processor = build_image_processor(asked)
    refuse_small_rows(image_processor, args.max_patches)
    teacher = load_teacher(asked, image_processor.merge_size, torch.bfloat16 if args.bf16 else torch.float32)
    readers = [
        MaskedPictures(
            image_processor,
            args.max_patches,
            asked.mask_ratio,
            asked.mask,
            seed,
            teacher.teacher.patch_size if teacher else None,
        )
        for seed in (args.seed, 0)
    ]
    reader = open_reader(args, recipe.data, readers[0])
    eval_reader = open_eval_reader(args, recipe.data, readers[1]) if args.eval_strategy != "no" else None
    set_seed(args.seed)
    model = build_model(asked, teacher.teacher.hidden_size if teacher else None)
    return MaskedTrainer(
        model=model,
        args=args,
        reader=reader,
        processor=image_processor,
        eval_reader=eval_reader,
        fraction=set_length(args, reader),
        max_bad_share=recipe.data.max_bad_share,
        teacher=teacher,
    )


def refuse_small_rows(image_processor: Any, max_patches: int) -> None:
    """Raises ValueError if a row does not hold the largest picture, which would be left out."""
    area = image_processor.size["longest_edge"]
    patches = area // image_processor.patch_size**2
    if patches > max_patches:
        raise ValueError(
            f"pictures have up to {patches} patches (max_pixels {area}) and a row holds {max_patches} (max_patches); "
            "give a smaller max_pixels or a larger max_patches"
        )


def load_teacher(asked: MaskedModelArguments, merge_size: int, dtype: torch.dtype) -> TeacherFeatures | None:
    """The teacher that the recipe names, with its cache, or None.

    Raises:
        ValueError: it is not there or no teacher, or the cache is another's.
    """
    if not asked.teacher:
        return None
    teacher = Teacher.from_pretrained(checked_model(asked.teacher, "teacher"), merge_size, dtype=dtype)
    cache = FeatureCache(Path(asked.teacher_cache), teacher.fingerprint()) if asked.teacher_cache else None
    return TeacherFeatures(teacher, cache)


def build_model(asked: MaskedModelArguments, teacher_hidden_size: int | None) -> FineViTForMaskedImageModeling:
    """The model in float32 on the CPU; of a `model` with a head of another width the head starts anew."""
    config: Any = FineViTConfig.from_pretrained(asked.model) if asked.model else scratch_config(asked)
    config.teacher_hidden_size = teacher_hidden_size or config.num_channels * config.patch_size**2
    config.loss_on, config.target_norm = asked.loss_on, asked.target_norm
    attention: dict[str, Any] = {"attn_implementation": asked.attn_implementation} if asked.attn_implementation else {}
    if not asked.model:
        return FineViTForMaskedImageModeling._from_config(config, dtype=torch.float32, **attention)
    return FineViTForMaskedImageModeling.from_pretrained(
        asked.model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, **attention
    )


def scratch_config(asked: MaskedModelArguments) -> FineViTConfig:
    """The configuration of a model from scratch."""
    return FineViTConfig.from_size(str(asked.size), **asked.scratch_fields)


def model_facts(model: FineViTForMaskedImageModeling) -> dict[str, Any]:
    """Size and kind of the encoder, and what its head predicts."""
    config = model.config
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vision": f"FineViT, {config.num_hidden_layers} layers, width {config.hidden_size}",
        "target": f"{config.teacher_hidden_size} numbers of each patch (target_norm {config.target_norm})",
    }


@torch.no_grad()
def draw(trainer: MaskedTrainer) -> dict[str, Image.Image]:
    """Predictions of the first pictures of the evaluation, or of the training where there is none, as a PNG; on all
    ranks, because the weights may lie on all of them.
    """
    reader = trainer.eval_reader or trainer.loader.reader
    batch: Any = next(iter(loader_for(trainer.args, reader, lambda key, step: 1.0, rows=1, accumulation=1)))
    batch = trainer._prepare_inputs(batch)
    trainer.model.eval()
    with trainer.compute_loss_context_manager():
        outputs, targets = trainer.outputs_of(trainer.model, batch)
    grid = batch["image_grid_thw"].cpu()[:DRAWN_PICTURES]
    patches = int(grid.prod(-1).sum())
    pixels, masked, targets, prediction = (
        tensor[:patches].cpu()
        for tensor in (batch["pixel_values"], batch["bool_masked_pos"], targets, outputs.reconstruction)
    )
    config: Any = trainer.accelerator.unwrap_model(trainer.model).config
    shown = Shown(
        pixels, grid, masked, targets.float(), prediction.float(), config.target_norm, config.spatial_merge_size
    )
    scaling = scaling_of(vars(trainer.processing_class))
    return {DRAWING: draw_features(shown) if trainer.teacher else draw_pixels(shown, scaling)}


STAGE = Stage("mim", build_trainer, model_facts, card="mim.md", loss="squared error per patch", draw=draw)
