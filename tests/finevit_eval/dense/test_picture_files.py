"""Pictures that are given as files and folders, each under a name of its own."""

import pytest

from finevit_eval.dense.picture_files import picture_files
from tests.support.vl_models import noise_image


def test_pictures_of_one_name_get_names_of_their_own(tmp_path):
    noise_image(0).save(tmp_path / "page.png")
    (tmp_path / "more").mkdir()
    noise_image(0).save(tmp_path / "more" / "page.jpg")
    files = picture_files([tmp_path / "page.png", tmp_path / "more", tmp_path / "page.png"])
    assert list(files) == ["page", "page-2", "page-3"]
    assert files["page-2"] == tmp_path / "more" / "page.jpg"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        picture_files([tmp_path / "empty"])
