"""Models that a recipe names by folder or Hub id: whether they are there, and of which kind."""

from pathlib import Path

from transformers import AutoConfig

from finevit_vl.model_folder import check_model_folder

WITH_ENCODER = ("finevit", "finevit_dual", "finevit_vl")


def checked_model(given: str | None, option: str) -> str:
    """`given`, which is a model folder or the id of a model on the Hub.

    Raises:
        ValueError: it is neither, or the Hub cannot be reached.
    """
    model = str(given)
    try:
        check_model_folder(model)
    except ValueError as error:
        raise ValueError(f"`{option}` is {model!r}: {error}") from error
    if not Path(model).is_dir():
        try:
            AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`{option}` is {model!r}: there is no such folder here, and the Hub does not give it: {error}"
            ) from error
    return model


def checked_kind(given: str, option: str, kinds: tuple[str, ...], instead: str | None = None) -> str:
    """`given`, a model folder or Hub id of one of some kinds (`model_type`).

    Args:
        instead: the option that takes a model with an encoder in it, where there is one.

    Raises:
        ValueError: it is none, or of another kind, such as the checkpoint of another stage.
    """
    model = checked_model(given, option)
    try:
        kind = AutoConfig.from_pretrained(model).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}` is {model!r}: {error}") from error
    if kind not in kinds:
        mend = f"; give it as `{instead}`" if instead and kind in WITH_ENCODER else ""
        raise ValueError(f"`{option}` is {model!r}, a {kind}; expected a {' or '.join(kinds)}{mend}")
    return model
