"""What kind of model something is, told from its configuration alone."""

import json
from pathlib import Path

ENCODER = "an encoder"
DUAL = "a model of pictures and texts"
VISION_LANGUAGE = "a vision-language model"


def model_kind(model: str | Path) -> str | None:
    """`ENCODER`, `DUAL`, `VISION_LANGUAGE`, or None of something else.

    A model with two towers has a configuration for each; one that answers has a token for pictures besides. An
    encoder has patches and no vocabulary.

    Args:
        model: Folder with a config.json, or a Hub id, of which that file is fetched.
    """
    config = json.loads(_config_file(model).read_text("utf-8"))
    if "text_config" in config and "vision_config" in config:
        return VISION_LANGUAGE if "image_token_id" in config or "image_token_index" in config else DUAL
    return ENCODER if "patch_size" in config and "vocab_size" not in config else None


def _config_file(model: str | Path) -> Path:
    """Raises ValueError where the Hub gives none."""
    if Path(model).is_dir():
        return Path(model) / "config.json"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(model), "config.json"))
    except OSError as error:
        raise ValueError(f"{model} cannot be fetched from the Hub: {error}") from error
