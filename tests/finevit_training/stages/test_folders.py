"""Models that a recipe names: what is neither a folder nor on the Hub, or of another kind, is refused in one line."""

import pytest

from finevit_training.stages.folders import checked_kind, checked_model
from tests.support.paths import NANO


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("tests/no_such_model", "`model` is .* holds no no_such_model"),  # `tests` is a folder: mistyped, not an id
        ("tests", "holds no config.json"),
        ("testss", "does not exist"),  # a single word is a path
        ("no/such/model", "does not exist"),
        ("nobody/no-such-model", "no-such-model': there is no such folder here, and the Hub does not give it: "),
    ],
)
def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(given, word, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # which the environment sets at import
    with pytest.raises(ValueError, match=word):
        checked_model(given, "model")


def test_a_model_of_another_kind_is_refused_with_the_option_that_takes_it():
    assert checked_kind(str(NANO), "model", ("finevit", "finevit_vl")) == str(NANO)
    said = "`model` is .*, a finevit_vl; expected a finevit_dual"
    with pytest.raises(ValueError, match=f"{said}; give it as `vision`$"):
        checked_kind(str(NANO), "model", ("finevit_dual",), "vision")
    with pytest.raises(ValueError, match=f"{said}$"):
        checked_kind(str(NANO), "model", ("finevit_dual",))
