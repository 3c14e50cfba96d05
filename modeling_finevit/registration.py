# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Classes of this project, found by those who look them up by name in Transformers."""

import sys
from types import ModuleType


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


__all__ = ["expose_in_transformers"]
