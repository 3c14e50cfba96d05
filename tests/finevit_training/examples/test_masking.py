"""Pictures of stage I: what is masked, from what it follows, and that a teacher's own view lies on the same grid."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from finecap.sources.rows import Row
from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.order import RowKey
from finevit_training.examples.masking import MaskedPictures
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.patches import pack_images
from tests.support.training_data import lengths_of_all_windows, loader_of, reader_with

KEY = RowKey(2, 0, 0, 1)


def pictures_of(max_patches=1024, pixels=252**2, **fields):
    processor = FineViTImageProcessorPil(size={"shortest_edge": 56**2, "longest_edge": pixels})
    return MaskedPictures(processor, max_patches, **({"mask_ratio": 0.75} | fields))


def cells(rows, columns, side, seed=0):
    """A picture of flat cells, each of a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(side, 0).repeat(side, 1))


def encoded(image, file_format="PNG"):
    content = io.BytesIO()
    image.save(content, file_format)
    return content.getvalue()


def row_of(images, row_id="a"):
    return Row(row_id, [image.size for image in images], messages=[])


def example(made, images, row_id="a", key=KEY):
    return made.example(made.draft(row_of(images, row_id), key, 0.0), [encoded(image) for image in images])


def batch_of(made, *rows):
    return made.collate([[example(made, images, f"row {number}") for number, images in enumerate(rows)]])


def mean_colours(patches):
    return patches.unflatten(1, (3, -1)).float().mean(-1)


def test_every_picture_of_a_pack_is_masked_by_itself():
    made = pictures_of()
    batch = batch_of(made, [cells(4, 6, 14)], [cells(8, 4, 14), cells(6, 6, 14)])
    assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 8, 4], [1, 6, 6]]
    assert batch["lengths"].tolist() == [24, 32, 36]
    assert batch["ids"] == ["row 0", "row 1", "row 1"]
    assert batch["epochs"] == [2, 2, 2]
    assert [int(mask.sum()) for mask in batch["bool_masked_pos"].split([24, 32, 36])] == [18, 24, 27]
    assert batch["pixel_values"].dtype is torch.uint8
    assert batch["teacher_pixel_values"] is None


@pytest.mark.parametrize("mask", ["random", "block"])
def test_masks_follow_from_seed_epoch_copy_and_id_wherever_the_row_lies(mask):
    made, image = pictures_of(mask=mask), cells(10, 12, 14)

    def drawn(made=made, row_id="a", key=KEY, before=()):
        rows = [*before, example(made, [image], row_id, key)]
        return made.collate([rows])["bool_masked_pos"][-120:].tolist()

    first = drawn()
    torch.manual_seed(7)
    assert drawn(before=[example(made, [cells(4, 4, 14)], "b")]) == first
    assert drawn(made=pictures_of(mask=mask)) == first
    others = [
        drawn(made=pictures_of(mask=mask, seed=1)),
        drawn(row_id="b"),
        drawn(key=KEY._replace(epoch=3)),
        drawn(key=KEY._replace(copy=0)),
    ]
    assert len({tuple(one) for one in [first, *others]}) == 5


@pytest.mark.parametrize(("workers", "ranks"), [(2, 1), (0, 2)])
def test_any_number_of_loader_processes_and_ranks_draws_the_same_masks(nano_corpus, workers, ranks):
    reader = reader_with(pictures_of(512, 112**2, seed=3), [str(nano_corpus)], seed=3)
    told = lengths_of_all_windows(reader)

    def masks(workers, ranks):
        found = {}
        for rank in range(ranks):
            shape = {"ranks": ranks, "rank": rank, "accumulation": 2 // ranks}
            for batch in loader_of(reader, **shape, workers=workers, exchange=lambda mine: [mine, told]):
                lengths = batch["lengths"].tolist()
                masks = batch["bool_masked_pos"][: sum(lengths)].split(lengths)
                found |= {one: mask.tolist() for one, mask in zip(batch["ids"], masks, strict=True)}
        return found

    assert masks(workers, ranks) == masks(0, 1)


@pytest.mark.parametrize(("rows", "columns", "side"), [(18, 18, 56), (10, 28, 14), (28, 10, 14)])
def test_a_teacher_of_patch_16_sees_in_each_patch_what_the_student_sees_there(rows, columns, side):
    """252 and 288 pixels for 18 patches; fails for a grid that is swapped or shifted by one."""
    made = pictures_of(teacher_patch_size=16)
    image = cells(rows, columns, side)
    batch = batch_of(made, [image], [cells(4, 8, 14, seed=1)])
    assert batch["image_grid_thw"][0].tolist() == [1, rows, columns]
    student = mean_colours(batch["pixel_values"])
    teacher = mean_colours(batch["teacher_pixel_values"])
    assert batch["teacher_pixel_values"].shape == (len(student), 3 * 16**2)
    assert (student - teacher).abs().max() < 15
    turned = np.asarray(image).transpose(1, 0, 2)
    shifted = np.roll(np.asarray(image), side, axis=1)
    for wrong in (turned, shifted):
        pixels = torch.from_numpy(np.array(Image.fromarray(wrong).resize((columns * 16, rows * 16))))
        patches, _ = pack_images(pixels.permute(2, 0, 1)[None], 16, 2)
        assert (student[: rows * columns] - mean_colours(patches)).abs().max() > 100


def test_a_teacher_of_the_students_patch_needs_no_view_of_its_own():
    assert batch_of(pictures_of(teacher_patch_size=14), [cells(4, 6, 14)])["teacher_pixel_values"] is None


def test_a_large_jpeg_is_decoded_whole_for_a_teacher_that_sees_it_larger():
    image = cells(18, 18, 100)
    draft = pictures_of().draft(row_of([image]), KEY, 0.0)
    content = encoded(image, "JPEG")
    assert pictures_of().example(draft, [content]).images[0].size == (252, 252)
    assert pictures_of(teacher_patch_size=16).example(draft, [content]).images[0].size == (1800, 1800)


def test_an_empty_pack_is_a_blank_picture_that_counts_for_nothing():
    batch = pictures_of(teacher_patch_size=16).collate([[]])
    patches = int(batch["image_grid_thw"].prod())
    assert batch["pixel_values"].shape == (patches, 588)
    assert batch["teacher_pixel_values"].shape == (patches, 768)
    assert not batch["bool_masked_pos"].any()
    assert batch["lengths"].tolist() == batch["ids"] == batch["epochs"] == []


def test_rows_without_pictures_or_with_too_many_patches_are_left_out():
    made = pictures_of(max_patches=50)
    with pytest.raises(UnusableRecord, match="no picture in it"):
        made.draft(Row("text", [], messages=[]), KEY, 0.0)
    with pytest.raises(UnusableRecord, match="do not fit: 60 patches, max_patches 50; give a smaller max_pixels"):
        made.draft(row_of([cells(4, 6, 14), cells(6, 6, 14)]), KEY, 0.0)
    broken = made.draft(row_of([cells(4, 6, 14)]), KEY, 0.0)
    with pytest.raises(UnusableRecord, match="picture cannot be used"):
        made.example(broken, [b"no picture"])
