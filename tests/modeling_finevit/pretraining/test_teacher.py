"""A teacher's features lie in the student's merge order, whatever model it is and however its input is scaled."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import ViTImageProcessorPil

from modeling_finevit import FineViTConfig, FineViTForMaskedImageModeling, FineViTImageProcessorPil, FineViTModel
from modeling_finevit.patches import pack_images
from modeling_finevit.pretraining.teacher import Teacher
from tests.support.encoder_cases import relative_error
from tests.support.tiny_teachers import FAMILIES, FixedConfig, FixedPositions, scaling, tiny_teacher

pytestmark = pytest.mark.model

_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
GRIDS = [(4, 6), (6, 4), (2, 8), (4, 6)]
PREFIX = {"dinov3": 5, "dinov2": 1, "dinov2_with_registers": 5, "tipsv2": 2, "clip": 1, "radio": 10}


def pictures_for(teacher, seed=0):
    """Random bytes `(1, 3, H, W)` of the size at which each grid is seen."""
    rng, size = np.random.default_rng(seed), teacher.patch_size
    return [torch.from_numpy(rng.integers(0, 256, (1, 3, r * size, c * size), dtype=np.uint8)) for r, c in GRIDS]


def packed(pictures, teacher):
    patches, grids = zip(*[pack_images(picture, teacher.patch_size, 2) for picture in pictures], strict=True)
    return torch.cat(patches), torch.cat(grids)


ODD_ORDERS = {
    "ViTMAE": {"image_size": 32, "patch_size": 8, "mask_ratio": 0.0},  # it shuffles its patches
    "Yolos": {"image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5},  # five tokens behind the patches
    "PixtralVision": {"image_size": 32, "patch_size": 8, "head_dim": 16},  # a batch comes as one sequence
}


@pytest.mark.parametrize("family", ODD_ORDERS)
def test_a_model_whose_tokens_are_not_those_of_the_patches_in_their_order_is_refused(family):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{family}Config")(**fields, **ODD_ORDERS[family])
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config)
    with pytest.raises(ValueError, match="gives no patch tokens: "):
        Teacher(model, scaling())


def places(rows, columns):
    """Row and column of the patches in 2x2-merge order, counted by hand."""
    return [
        (row + inner_row, column + inner_column)
        for row in range(0, rows, 2)
        for column in range(0, columns, 2)
        for inner_row in range(2)
        for inner_column in range(2)
    ]


def by_hand(model, family, picture):
    """(rows, columns, D) features of one picture, as its model is called everywhere else."""
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    pixels, size = (picture / 255 - mean) / std, model.config.patch_size
    rows, columns = picture.shape[2] // size, picture.shape[3] // size
    with torch.no_grad():
        if family == "finevit":
            features = model(pixels).last_hidden_state
            plane = torch.empty(rows, columns, features.shape[-1])
            for feature, (row, column) in zip(features, places(rows, columns), strict=True):
                plane[row, column] = feature
            return plane
        if family == "siglip2":
            patches = torch.nn.functional.unfold(pixels, size, stride=size)[0].T.unflatten(1, (3, size * size))
            patches = patches.transpose(1, 2).flatten(1)[None]
            shapes, mask = torch.tensor([[rows, columns]]), torch.ones(1, rows * columns)
            tokens = model(patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state
        elif family in ("siglip", "clip"):
            tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state
        else:
            tokens = model(pixels).last_hidden_state
    return tokens[0, PREFIX.get(family, 0) :].unflatten(0, (rows, columns))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_patch_gets_the_feature_of_its_own_row_and_column(family):
    model = tiny_teacher(family)
    teacher = Teacher(model, scaling())
    pictures = pictures_for(teacher)
    features = teacher(*packed(pictures, teacher)).split([rows * columns for rows, columns in GRIDS])
    for picture, found, (rows, columns) in zip(pictures, features, GRIDS, strict=True):
        plane = by_hand(model, family, picture)
        assert relative_error(found, torch.stack([plane[place] for place in places(rows, columns)])) < 1e-5
        for wrong in (plane.roll(1, 0), plane.roll(1, 1), plane.transpose(0, 1).reshape_as(plane)):
            assert relative_error(found, torch.stack([wrong[place] for place in places(rows, columns)])) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_feature_of_a_cell_moves_most_when_the_picture_is_changed_there(family):
    teacher = Teacher(tiny_teacher(family), scaling())
    pictures, size = pictures_for(teacher), teacher.patch_size
    before = teacher(*packed(pictures, teacher))
    row, column = 2, 5  # of the first picture, 4 x 6
    pictures[0][:, :, row * size : (row + 1) * size, column * size : (column + 1) * size] ^= 255
    moved = (teacher(*packed(pictures, teacher)) - before).norm(dim=-1)
    assert moved.argmax() == places(4, 6).index((row, column))
    assert moved[24:].max() < 1e-4 * moved.max()  # other pictures see nothing of it


@pytest.mark.parametrize("family", FAMILIES)
def test_the_grids_of_a_student_of_patch_14_are_those_of_the_paper(family):
    teacher = Teacher(tiny_teacher(family), scaling())
    assert (18 * teacher.patch_size, 18 * 14) in ((288, 252), (252, 252))
    patches, grid = pack_images(
        torch.zeros(1, 3, 18 * teacher.patch_size, 18 * teacher.patch_size), teacher.patch_size, 2
    )
    assert teacher(patches.byte(), grid).shape == (324, teacher.hidden_size)


def test_an_input_that_is_not_to_be_normalised_stays_as_it_is():
    model = tiny_teacher("tipsv2")
    teacher, normalising = Teacher(model, scaling(do_normalize=False)), Teacher(model, scaling())
    picture = pictures_for(teacher)[0]
    with torch.no_grad():
        expected = model(picture / 255).last_hidden_state[0, 2:]
    order = [row * 6 + column for row, column in places(4, 6)]
    assert relative_error(teacher(*packed([picture], teacher)), expected[order]) < 1e-5
    assert relative_error(normalising(*packed([picture], teacher)), expected[order]) > 0.01


def test_a_teacher_is_frozen_and_never_saved_with_its_student():
    teacher = Teacher(tiny_teacher("dinov3").train(), scaling())
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    student = FineViTForMaskedImageModeling(FineViTConfig.from_size("nano"))
    names = set(student.state_dict())
    student.teacher = teacher
    assert set(student.state_dict()) == names


@pytest.mark.parametrize("family", ["dinov3", "finevit"])
def test_a_teacher_is_loaded_from_a_folder_with_its_own_scaling(family, tmp_path):
    model = tiny_teacher(family)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"[^. ]\. Give a folder .* image processor"):
        Teacher.from_pretrained(str(tmp_path))
    processor = FineViTImageProcessorPil if family == "finevit" else ViTImageProcessorPil
    processor(image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.4)).save_pretrained(tmp_path)
    loaded, made = Teacher.from_pretrained(str(tmp_path)), Teacher(model, scaling())
    inputs = packed(pictures_for(made), made)
    assert torch.equal(loaded(*inputs), made(*inputs))
    assert loaded.fingerprint() == made.fingerprint()


def without(folder, word):
    """Takes the weights whose names hold a word out of a folder."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if word not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "needless", "needed"),
    [
        ("dinov2", "mask_token", "layer.1.mlp.fc1.weight"),
        ("siglip", "head.", "patch_embedding.weight"),
        ("clip", "post_layernorm", "position_embedding.weight"),  # which CLIP's pooled output alone goes through
        ("finevit", None, "layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_folder_without_weights_that_patches_need_is_refused_and_without_others_taken(
    family, needless, needed, tmp_path
):
    model = tiny_teacher(family)
    model.save_pretrained(tmp_path)
    scaling().save_pretrained(tmp_path)
    if needless:
        without(tmp_path, needless)
    made = Teacher(model, scaling())
    inputs = packed(pictures_for(made), made)
    loaded = Teacher.from_pretrained(str(tmp_path))
    assert torch.equal(loaded(*inputs), made(*inputs))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    without(tmp_path, needed)
    with pytest.raises(ValueError, match=rf"lacks weights that its features need.*: \S*{needed}; give a folder"):
        Teacher.from_pretrained(str(tmp_path))


def test_of_a_model_with_two_towers_the_teacher_is_the_one_that_sees(tmp_path):
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.Siglip2Config(
        vision_config=vision | {"num_patches": 16}, text_config=vision | {"vocab_size": 50, "projection_size": 32}
    )
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    scaling().save_pretrained(tmp_path)
    without(tmp_path, "text_model")
    teacher = Teacher.from_pretrained(str(tmp_path))
    assert (teacher.patch_size, teacher.hidden_size) == (16, 32)
    assert not any("text" in name for name, _ in teacher.model.named_parameters())


def test_the_fingerprint_knows_weights_and_scaling():
    first = Teacher(tiny_teacher("dinov2"), scaling())
    again, otherwise = Teacher(tiny_teacher("dinov2"), scaling()), Teacher(tiny_teacher("dinov2"), scaling(False))
    assert first.fingerprint() == again.fingerprint() != otherwise.fingerprint()
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[0] += 1e-3
    assert again.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig()), "patch_size=None"),
        (lambda: transformers.BertModel(transformers.BertConfig(**_BERT)), "patch_size=None"),
        (
            lambda: transformers.SwinModel(transformers.SwinConfig(embed_dim=12, image_size=56)),
            "gives no patch tokens",
        ),
        (lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**_BERT)), "gives no patch tokens"),
    ],
    ids=["convolutions", "text", "merged patches", "masked patches"],
)
def test_a_model_without_patch_tokens_is_refused(make, reason):
    with pytest.raises(ValueError, match=f"{reason}.*expected a vision transformer with square patches"):
        Teacher(make(), scaling())


def test_a_fixed_table_of_positions_is_taken_for_its_own_grid_alone():
    teacher = Teacher(FixedPositions(FixedConfig()), scaling())
    assert teacher.fixed_grid == (4, 4)
    patches = torch.zeros(24, 768, dtype=torch.uint8)
    assert teacher(patches[:16], torch.tensor([[1, 4, 4]])).shape == (16, 8)
    with pytest.raises(ValueError, match=r"fixed table of positions for 4x4 patches.*has 4x6 patches"):
        teacher(patches, torch.tensor([[1, 4, 6]]))


def test_a_finevit_of_another_merge_size_is_refused():
    model = FineViTModel(FineViTConfig.from_size("nano", spatial_merge_size=4))
    with pytest.raises(ValueError, match=r"blocks of 4 and the student in blocks of 2.*grids cannot match"):
        Teacher(model, scaling())
