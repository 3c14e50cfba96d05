"""Components are scikit-learn's, cosines those by hand, and a point is in the patch that is drawn under it."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from finevit_eval.dense.maps import box_mean, colour_range, cosines, patch_under, principal_components


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(3, 0.1, 12)
    return [torch.randn(rows, columns, 12, generator=generator) * scale + 1 for rows, columns in ((6, 10), (4, 4))]


def test_components_of_all_pictures_have_scikit_learns_basis(maps):
    together = np.concatenate([one.flatten(0, 1).numpy() for one in maps])
    reference = PCA(3, svd_solver="full").fit(together)
    components, shares = principal_components(maps)
    for found, one in zip(components, maps, strict=True):
        expected = reference.transform(one.flatten(0, 1).numpy()).reshape(*one.shape[:2], 3)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-5)
    of_the_first_alone, _ = principal_components(maps[:1])
    assert (of_the_first_alone[0] - components[0]).abs().max() > 0.1


def test_components_of_nothing_but_rounding_are_zero():
    components, shares = principal_components([torch.full((4, 6, 8), 0.1) + 1e-9 * torch.randn(4, 6, 8)])
    assert components[0].abs().max() == 0
    assert all(np.isfinite(shares))
    one_direction = torch.arange(24.0).view(4, 6, 1).expand(4, 6, 8)
    components, shares = principal_components([one_direction])
    assert components[0][..., 0].std() > 1
    assert components[0][..., 1:].abs().max() == 0
    assert shares == pytest.approx([1, 0, 0], abs=1e-6)


def test_likeness_is_the_cosine(maps):
    query = maps[0][4, 7]
    found = cosines(maps, query)
    assert found[0][4, 7].item() == pytest.approx(1)
    assert (found[0] < 1 - 1e-4).sum() == 59
    a, b = maps[1][2, 3].numpy(), query.numpy()
    assert found[1][2, 3].item() == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


@pytest.mark.parametrize(
    ("point", "place"),
    [((0, 0), (0, 0)), ((139, 0), (0, 9)), ((139.9, 83.9), (5, 9)), ((14, 13.9), (0, 1)), ((100, 60), (4, 7))],
)
def test_the_patch_under_a_point_of_a_picture_that_is_no_square(point, place):
    assert patch_under(point, (140, 84), (6, 10)) == place
    scaled = tuple(3.7 * part for part in point)  # a picture that was scaled down
    assert patch_under(scaled, (518, 311), (6, 10)) == place


@pytest.mark.parametrize("point", [(-1, 5), (140, 5), (5, 84), (100, 100), (float("nan"), 5)])
def test_a_point_outside_of_the_picture_is_refused(point):
    with pytest.raises(ValueError, match="lies outside of the picture of 140x84 pixels"):
        patch_under(point, (140, 84), (6, 10))


def test_the_mean_of_a_box_on_the_borders_of_patches_is_near_their_mean_and_a_box_of_one_is_that_patch():
    plane = torch.zeros(6, 10, 2)
    plane[2:4, 5:9, 0] = 1
    assert box_mean(plane, (5 * 14, 2 * 14, 9 * 14, 4 * 14), (140, 84))[0] > 0.8
    assert box_mean(plane, (0, 0, 4 * 14, 6 * 14), (140, 84))[0] == 0
    assert box_mean(plane, (6 * 14 + 6, 2 * 14 + 8, 7 * 14 - 6, 3 * 14), (140, 84))[0] == pytest.approx(1)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 20), (20, 5, 5, 20), (0, 0, 141, 10), (-1, 0, 5, 5), (0, 0, float("nan"), 9)]
)
def test_a_box_that_is_empty_or_not_in_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="must have x1 < x2 and y1 < y2 and lie in the picture of 140x84"):
        box_mean(torch.zeros(6, 10, 2), box, (140, 84))


def test_colours_span_all_pictures_and_leave_single_outliers_out():
    planes = [torch.linspace(0, 1, 1000).view(20, 50), torch.linspace(1, 2, 1000).view(50, 20)]
    planes[0][0, 0] = 900.0
    low, high = colour_range(planes)
    assert (low, high) == (pytest.approx(0.01, abs=0.005), pytest.approx(1.99, abs=0.005))
    assert colour_range([torch.rand(4, 6, 3)]).shape == (2, 3)
