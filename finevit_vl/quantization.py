# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Which modules 8-bit and 4-bit loading leaves alone."""

import copy
from typing import Any

# Names in FineViTVLForConditionalGeneration and, without the prefix, in FineViTVLModel; transformers matches them from
# the start of a module's name. Naming any replaces transformers' own default, so the head is named too.
FULL_PRECISION_MODULES = (
    "model.vision_tower",
    "model.multi_modal_projector",
    "vision_tower",
    "multi_modal_projector",
    "lm_head",
)
# bitsandbytes' name for the list, and the name every other method uses.
_SKIP_FIELDS = ("llm_int8_skip_modules", "modules_to_not_convert")


def leave_vision_unquantized(quantization_config: Any) -> Any:
    """A copy of `quantization_config` (an object or its dict) that skips `FULL_PRECISION_MODULES`.

    A list that is given already is left as it is; so is a method that keeps no such list. transformers itself would
    quantise the tower: its default skips only the head and what is tied to it.
    """
    if isinstance(quantization_config, dict):
        is_bnb = quantization_config.get("quant_method", "bitsandbytes") == "bitsandbytes"
        field = _SKIP_FIELDS[0] if is_bnb else _SKIP_FIELDS[1]
        if quantization_config.get(field) is not None:
            return quantization_config
        return {**quantization_config, field: list(FULL_PRECISION_MODULES)}
    quantization_config = copy.deepcopy(quantization_config)
    for field in _SKIP_FIELDS:
        if getattr(quantization_config, field, ()) is None:
            setattr(quantization_config, field, list(FULL_PRECISION_MODULES))
    return quantization_config
