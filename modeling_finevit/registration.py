# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Everything that reaches into Transformers' namespaces or private attributes.

Classes of this project are found by those who look them up by name, and saved models keep our names.
"""

import sys
from types import ModuleType

from torch import nn
from transformers.models.auto import modeling_auto


def expose_in_transformers(*classes: type) -> None:
    """Makes classes attributes of the `transformers` namespace.

    TRL (models by path, DPO's reference model) and `transformers serve` do `getattr(transformers, architecture)`,
    which the Auto classes' `register` does not feed. Transformers runs its `__init__` a second time when
    `processing_utils` is first imported, so modules that imported it early hold another namespace object than later
    ones; every one that is in use gets the classes.
    """
    bound = [getattr(module, "__dict__", {}).get("transformers") for module in list(sys.modules.values())]
    for namespace in (sys.modules["transformers"], *bound):
        if isinstance(namespace, ModuleType) and namespace.__name__ == "transformers":
            for cls in classes:
                setattr(namespace, cls.__name__, cls)


def name_as_vision_language_model(model_type: str, class_name: str) -> None:
    """Enters a class where `transformers serve` looks for what a model can take (pictures and text)."""
    for names in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        names[model_type] = class_name


def forget_key_mapping(model: nn.Module) -> None:
    """Lets `save_pretrained` write the model's own names; it would undo the renaming that `from_pretrained` did."""
    if getattr(model, "_weight_conversions", None) is not None:
        model._weight_conversions = None  # ty: ignore[invalid-assignment]


__all__ = ["expose_in_transformers", "forget_key_mapping", "name_as_vision_language_model"]
