"""Pictures by class whose colours tell the class, and where class weights are kept."""

import pytest

from finevit_eval.zero_shot import text_weights
from tests.support.labelled_pictures import plain_picture, write_image_folder

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox"]


@pytest.fixture(autouse=True)
def assets(tmp_path_factory, monkeypatch):
    """A folder instead of the user's cache; returns it."""
    folder = tmp_path_factory.mktemp("assets")

    def path(library, namespace, subfolder):
        (folder / subfolder).mkdir(exist_ok=True)
        return folder / subfolder

    monkeypatch.setattr(text_weights, "cached_assets_path", path)
    return folder


def shades(number):
    """Three pictures of different sizes; red is 40 times the number of the class."""
    return [plain_picture((40 * number, 17 * (number + 2 * at), 90), (40 + 30 * at, 60)) for at in range(3)]


@pytest.fixture(scope="session")
def animals(tmp_path_factory):
    """Six classes of three pictures as the split `test`, one of them broken."""
    folder = tmp_path_factory.mktemp("animals")
    write_image_folder(folder / "test", {name: shades(number) for number, name in enumerate(CLASSES)})
    (folder / "test" / "ant" / "999.png").write_bytes(b"broken")
    return folder
