"""Both image processors: what they return, that they agree, and what they refuse."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import is_torchvision_available

from finecap import pictures
from modeling_finevit import FineViTConfig, FineViTImageProcessorPil
from modeling_finevit.image_inputs import FORMATS, fit_size, open_image_bytes, to_rgb
from modeling_finevit.patches import patch_positions

pytestmark = pytest.mark.model

BACKENDS = [FineViTImageProcessorPil]
if is_torchvision_available():
    from modeling_finevit import FineViTImageProcessor

    BACKENDS.append(FineViTImageProcessor)
both = pytest.mark.parametrize("processor_class", BACKENDS, ids=lambda cls: cls.__name__)
needs_torchvision = pytest.mark.skipif(len(BACKENDS) == 1, reason="torchvision is not installed")


def picture(width, height, seed=0):
    """Smooth colours, so that resizing has a right answer."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def unpatch(outputs, processor, number=0):
    """`(H, W, 3)` pixels in 0..255 back out of the packed patches of one image."""
    sizes = outputs["image_grid_thw"][:, 1:]
    row, column, image = patch_positions(sizes, 2)
    mine = image == number
    height, width = sizes[number].tolist()
    canvas = torch.zeros(height, width, 3, 14, 14)
    canvas[row[mine], column[mine]] = outputs["pixel_values"][mine].unflatten(1, (3, 14, 14))
    pixels = canvas.permute(0, 3, 1, 4, 2).reshape(height * 14, width * 14, 3)
    return (pixels * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)) * 255


@both
def test_pixels_of_an_image_of_the_right_size_come_back(processor_class):
    image = picture(112, 84)
    outputs = processor_class()(image, return_tensors="pt")
    assert outputs["image_grid_thw"].tolist() == [[1, 6, 8]]
    assert outputs["pixel_values"].shape == (48, 588)
    assert outputs["pixel_values"].dtype is torch.float32
    np.testing.assert_allclose(unpatch(outputs, processor_class()), np.asarray(image), atol=1e-3)


def sources_of(image, tmp_path, **options):
    """The same picture as a file, a `Path`, a data URI and a base64 string (longer than any path may be)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    (tmp_path / "picture.png").write_bytes(buffer.getvalue())
    text = base64.b64encode(buffer.getvalue()).decode()
    path = tmp_path / "picture.png"
    return {"file": str(path), "path": path, "data URI": f"data:image/png;base64,{text}", "base64": text}


@both
def test_every_source_of_a_picture_gives_what_pillow_gives(processor_class, tmp_path):
    """Transparency over white, 16 bits scaled, upright: with Transformers' loaders each of the three is lost."""
    transparent = picture(112, 84).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((112, 84)))
    deep = Image.fromarray(np.linspace(0, 65535, 112 * 84).reshape(84, 112).astype(np.uint16))
    sideways = Image.Exif()
    sideways[0x0112] = 6
    for image, options in ((transparent, {}), (deep, {}), (picture(112, 84), {"exif": sideways})):
        sources = sources_of(image, tmp_path, **options)
        processor = processor_class()
        expected = processor(Image.open(sources["file"]), return_tensors="pt")
        for name, source in sources.items():
            fetched = processor(processor.fetch_images([source]), return_tensors="pt")
            assert torch.equal(fetched["pixel_values"], expected["pixel_values"]), name
            assert torch.equal(processor(source, return_tensors="pt")["pixel_values"], expected["pixel_values"]), name
            assert fetched["image_grid_thw"].tolist() == ([[1, 8, 6]] if options else [[1, 6, 8]])


@both
def test_a_fully_transparent_picture_is_white(processor_class, tmp_path):
    processor = processor_class()
    white = processor(Image.new("RGB", (56, 56), "white"), return_tensors="pt")["pixel_values"]
    for source in sources_of(Image.new("RGBA", (56, 56), (0, 0, 0, 0)), tmp_path).values():
        assert torch.equal(processor(source, return_tensors="pt")["pixel_values"], white)


@both
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such.png", r"Image 0 of 1 \(no/such.png\): cannot be opened.*no file, http\(s\) URL"),
        ("data:image/png,%89PNG", r"Image 0 of 1 \(data:image/png,\.\.\.\): cannot be opened"),
        ("data:image/png;base64," + "A" * 9999, r"Image 0 of 1 \(data:image/png;base64,\.\.\.\): cannot be opened"),
        ("http://127.0.0.1:9/a.png", r"Image 0 of 1 \(http://127.0.0.1:9/a.png\): cannot be opened"),
    ],
)
def test_a_source_that_is_no_picture_is_named(processor_class, source, message):
    with pytest.raises(ValueError, match=message) as error:
        processor_class()(source)
    assert len(str(error.value)) < 400


@needs_torchvision
def test_both_backends_agree():
    images = [picture(112, 84), picture(301, 222), picture(1500, 900), picture(30, 20), picture(64, 640)]
    images += [images[1].convert("L"), images[1].convert("CMYK")]
    ours, theirs = (cls()(images, return_tensors="pt") for cls in BACKENDS)
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    one_level = 1 / 255 / min(FineViTImageProcessorPil().image_std)
    difference = (ours["pixel_values"] - theirs["pixel_values"]).abs()
    assert difference.max() < 2.01 * one_level  # each of the two passes of the bicubic filter rounds
    assert difference.mean() < 0.05 * one_level
    assert difference[:48].max() < 1e-5  # the first image is not resized


@needs_torchvision
@pytest.mark.parametrize("steps", [{}, {"do_rescale": False}, {"do_normalize": False}, {"do_resize": False}])
def test_the_shorter_way_on_a_cpu_gives_the_bits_of_the_base_class(steps):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    class Long(FineViTImageProcessor):
        def _one_by_one(self, images, **kwargs):
            return Qwen2VLImageProcessor._preprocess(self, images, **kwargs)

    images = [picture(*size, seed) for seed, size in enumerate([(560, 308), (308, 560), (56, 56), (560, 308)])]
    images += [] if steps.get("do_resize") is False else [picture(901, 333), picture(2000, 1500)]
    short, long = (cls()(images, return_tensors="pt", **steps) for cls in (FineViTImageProcessor, Long))
    assert short["pixel_values"].dtype == long["pixel_values"].dtype
    assert torch.equal(short["pixel_values"], long["pixel_values"])
    assert torch.equal(short["image_grid_thw"], long["image_grid_thw"])


@both
@pytest.mark.parametrize(
    "steps", [{}, {"do_rescale": False}, {"do_normalize": False}, {"image_std": [0.2, 0.3, 0.4]}, {"image_mean": 0.5}]
)
def test_patches_of_bytes_become_the_processor_s_own_floats(processor_class, steps):
    processor, images = processor_class(**steps), [picture(560, 308), picture(901, 333, seed=1)]
    whole, halves = processor(images, return_tensors="pt"), processor.as_bytes(images)
    assert halves["pixel_values"].dtype == torch.uint8
    assert torch.equal(halves["image_grid_thw"], whole["image_grid_thw"])
    tolerance = {"rtol": 0, "atol": 0} if processor_class is FineViTImageProcessor else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(processor.from_bytes(halves["pixel_values"]), whole["pixel_values"], **tolerance)
    # Negative control: another order of the channels.
    swapped = halves["pixel_values"].view(-1, 3, 14 * 14).flip(1).flatten(1)
    assert (processor.from_bytes(swapped) - whole["pixel_values"]).abs().max() > 0.1
    assert processor.from_bytes(halves["pixel_values"][:0]).shape == (0, 588)


@both
def test_batch_equals_one_at_a_time(processor_class):
    images = [picture(112, 84), picture(301, 222), picture(112, 84, seed=1)]
    batch = processor_class()(images, return_tensors="pt")
    single = [processor_class()(image, return_tensors="pt") for image in images]
    assert torch.equal(batch["pixel_values"], torch.cat([one["pixel_values"] for one in single]))
    assert torch.equal(batch["image_grid_thw"], torch.cat([one["image_grid_thw"] for one in single]))


@both
def test_nested_and_empty_lists(processor_class):
    image = picture(56, 56)
    assert processor_class()([[], [image, image]], return_tensors="pt")["image_grid_thw"].shape == (2, 3)
    for empty in ([], [[], []]):
        outputs = processor_class()(empty, return_tensors="pt")
        assert outputs["pixel_values"].shape == (0, 588)
        assert outputs["image_grid_thw"].shape == (0, 3)
        assert outputs["image_grid_thw"].dtype is torch.long


@both
def test_save_and_load(processor_class, tmp_path):
    processor_class(size={"shortest_edge": 784, "longest_edge": 78400}, max_image_pixels=10**6).save_pretrained(
        tmp_path
    )
    FineViTConfig.from_size("nano").save_pretrained(tmp_path)
    backend = "pil" if processor_class is FineViTImageProcessorPil else "torchvision"
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is processor_class
    assert (loaded.size["longest_edge"], loaded.max_image_pixels) == (78400, 10**6)


sides = st.integers(1, 3000)


@given(sides, sides, st.integers(784, 20_000), st.integers(0, 20_000))
@settings(max_examples=300, deadline=None)
def test_no_size_exceeds_the_budget_however_narrow_it_is(height, width, min_pixels, more):
    try:
        rows, columns = fit_size(height, width, 28, 14, min_pixels, min_pixels + more)
    except ValueError:
        assume(False)
    assert 784 <= rows * columns <= min_pixels + more
    assert rows % 28 == columns % 28 == 0
    if more >= 3 * min_pixels + 4 * 28 * max(rows, columns):  # room for a row and a column of tokens
        assert rows * columns >= min_pixels


def test_a_budget_under_one_token_is_refused():
    with pytest.raises(ValueError, match=r"max_pixels=783 .*28x28"):
        fit_size(100, 100, 28, 14, 784, 783)


@given(sides, sides, st.sampled_from([28 * 28, 56 * 56, 112 * 112]), st.sampled_from([224 * 224, 1008 * 1008]))
@settings(max_examples=300, deadline=None)
def test_sizes_are_multiples_of_28_within_the_budget(height, width, min_pixels, max_pixels):
    try:
        rows, columns = fit_size(height, width, 28, 14, min_pixels, max_pixels)
    except ValueError:
        area = height * width
        scale = (min(max(area, min_pixels), max_pixels) / area) ** 0.5
        assert max(height, width) > 200 * min(height, width) or min(height, width) * scale < 14
        return
    assert rows % 28 == columns % 28 == 0
    assert min_pixels <= rows * columns <= max_pixels
    if min_pixels <= height * width and (-(-height // 28)) * (-(-width // 28)) * 784 <= max_pixels:
        nearest = max(28, round(height / 28) * 28), max(28, round(width / 28) * 28)
        assert (rows, columns) == nearest or nearest[0] * nearest[1] < min_pixels


@given(sides, sides)
@settings(max_examples=300, deadline=None)
def test_sizes_equal_qwens_where_it_does_not_distort(height, width):
    assume(min(height, width) >= 28 and max(height, width) < 20 * min(height, width))
    found = fit_size(height, width, 28, 14, 56 * 56, 1008 * 1008)
    # Qwen's loses a whole row where the quotient is a hair under a whole number
    budgets: list[Any] = [1008 * 1008, 1008 * 1008 + 0.01]
    assert found in [smart_resize(height, width, 28, 56 * 56, budget) for budget in budgets]


@both
def test_number_of_patches_is_that_of_the_output(processor_class):
    processor = processor_class(size={"shortest_edge": 3136, "longest_edge": 200 * 784})
    for width, height in [(112, 84), (301, 222), (1500, 900), (30, 20), (50, 640)]:
        outputs = processor(picture(width, height), return_tensors="pt")
        assert processor.get_number_of_image_patches(height, width) == len(outputs["pixel_values"])
    assert processor.get_number_of_image_patches(560, 560, {"min_pixels": 784, "max_pixels": 784}) == 4
    with pytest.raises(ValueError, match="min_pixels <= max_pixels"):  # as the call itself would
        processor.get_number_of_image_patches(560, 560, {"max_pixels": 784})
    assert processor.get_number_of_image_patches(560, 560, {"size": {"longest_edge": 784, "shortest_edge": 784}}) == 4


@both
def test_pixel_budget_by_any_name(processor_class):
    image = picture(600, 600)
    for budget in ({"size": {"longest_edge": 12544}}, {"max_pixels": 12544}):
        assert processor_class(**budget)(image)["image_grid_thw"].tolist() == [[1, 8, 8]]
        assert processor_class()(image, **budget)["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert processor_class(min_pixels=112 * 112)(picture(30, 30))["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert processor_class()(picture(30, 30))["image_grid_thw"].tolist() == [[1, 4, 4]]
    for wrong in ({"height": 224, "width": 224}, {"shortest_edge": 10**7}):
        with pytest.raises(ValueError, match="areas in pixels"):
            processor_class(size=wrong)


@both
def test_exif_orientation_is_applied(processor_class):
    upright = picture(112, 56)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    outputs = processor_class()(Image.open(buffer), return_tensors="pt")
    assert outputs["image_grid_thw"].tolist() == [[1, 4, 8]]
    np.testing.assert_allclose(unpatch(outputs, processor_class()), np.asarray(upright), atol=1e-3)


def rgba(red, green, blue, alpha):
    return Image.new("RGBA", (56, 56), (red, green, blue, alpha))


deep_grey = np.full((56, 56), 32896, np.uint16)  # 128 * 257


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (56, 56), 1), (255, 255, 255)),
        (Image.new("L", (56, 56), 77), (77, 77, 77)),
        (Image.new("LA", (56, 56), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (56, 56), (10, 20, 30)).quantize(4), (10, 20, 30)),
        (rgba(255, 0, 0, 255), (255, 0, 0)),
        (rgba(255, 0, 0, 0), (255, 255, 255)),
        (rgba(0, 0, 0, 51), (204, 204, 204)),
        (Image.new("CMYK", (56, 56), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("YCbCr", (56, 56), (128, 128, 128)), (128, 128, 128)),
        (Image.fromarray(deep_grey), (128, 128, 128)),
        (Image.fromarray(deep_grey.astype(np.int32)), (128, 128, 128)),
        (Image.fromarray(np.full((56, 56), 90.0, np.float32)), (90, 90, 90)),
        (np.full((56, 56), 77, np.uint8), (77, 77, 77)),
        (np.full((56, 56, 1), 77, np.uint8), (77, 77, 77)),
        (np.full((3, 56, 56), 0.2, np.float32), (51, 51, 51)),
        (np.full((56, 56, 3), 51.0), (51, 51, 51)),
        (np.full((56, 56, 4), (0, 0, 0, 51), np.uint8), (204, 204, 204)),
        (deep_grey, (128, 128, 128)),
        (torch.full((3, 56, 56), 77, dtype=torch.uint8), (77, 77, 77)),
        (torch.ones(56, 56, dtype=torch.bool), (255, 255, 255)),
        (torch.full((3, 56, 56), 77, dtype=torch.int64), (77, 77, 77)),
    ],
)
def test_any_mode_becomes_rgb(image, expected):
    rgb = to_rgb(image, "Image 0 of 1", 10**6)
    assert rgb.shape == (3, 56, 56)
    assert rgb.dtype is torch.uint8
    assert rgb[:, 28, 28].tolist() == pytest.approx(expected, abs=1)


def test_a_picture_that_an_interpreter_would_draw_is_none():
    """EPS is a program for Ghostscript; the formats are those that the engine takes."""
    program = io.BytesIO()
    picture(60, 50).save(program, "EPS")
    with pytest.raises(ValueError, match="it is none of JPEG, PNG"):
        open_image_bytes(program.getvalue(), "Image 0 of 1")
    assert FORMATS == pictures.FORMATS


def test_floats_a_little_over_one_are_refused_and_not_taken_for_black():
    """Bicubic interpolation of a picture in [0, 1] goes beyond 1."""
    with pytest.raises(ValueError, match=r"up to 1\.02 are neither"):
        to_rgb(np.full((56, 56, 3), 1.02), "Image 0 of 1", 10**6)
    assert to_rgb(np.full((56, 56, 3), 1.0), "Image 0 of 1", 10**6).min() == 255
    assert to_rgb(np.full((56, 56, 3), 2.0), "Image 0 of 1", 10**6).max() == 2


def test_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (56, 56), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.info["transparency"] = 0
    assert to_rgb(image, "Image 0 of 1", 10**6)[:, 0, 0].tolist() == [255, 255, 255]


def test_paths_are_read_and_named(tmp_path):
    picture(60, 50).save(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    processor: Any = FineViTImageProcessorPil()
    assert processor(str(tmp_path / "fine.png"))["image_grid_thw"].tolist() == [[1, 4, 4]]
    for name in ("broken.png", "absent.png"):
        with pytest.raises(ValueError, match=rf"Image 1 of 2 \(.*{name}\)"):
            processor([tmp_path / "fine.png", tmp_path / name])


def truncated(kind):
    buffer = io.BytesIO()
    picture(200, 200).save(buffer, kind)
    return Image.open(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2]))


@both
@pytest.mark.parametrize(
    ("make_image", "message"),
    [
        (lambda: truncated("JPEG"), "truncated"),
        (lambda: truncated("PNG"), "truncated"),
        (lambda: np.zeros((0, 20, 3), np.uint8), "empty"),
        (lambda: Image.new("RGB", (0, 5)), "empty"),
        (lambda: picture(10, 1000), "less than one patch"),
        (lambda: picture(6000, 28), "aspect ratio above 200"),
        (lambda: picture(2000, 2000), "max_image_pixels"),
        (lambda: torch.zeros(3, 2000, 2000), "max_image_pixels"),
        (lambda: np.zeros(20), "2 or 3 dimensions"),
        (lambda: np.zeros((20, 20, 7)), "channels"),
        (lambda: np.full((30, 30, 3), np.nan), "finite"),
        (lambda: np.full((30, 30, 3), -1), "0, 255"),
        (lambda: 5, "expected a path"),
    ],
)
def test_bad_images_are_refused_by_name(processor_class, make_image, message):
    processor = processor_class(max_image_pixels=1_000_000)
    with pytest.raises(ValueError, match=rf"(?s)^Image 1 of 2.*{message}"):
        processor([picture(56, 56), make_image()], return_tensors="pt")


@both
def test_without_resizing_the_size_must_fit(processor_class):
    assert processor_class(do_resize=False)(picture(56, 84))["image_grid_thw"].tolist() == [[1, 6, 4]]
    with pytest.raises(ValueError, match=r"Image 0 of 1.*multiples of 28"):
        processor_class(do_resize=False)(picture(60, 84))
