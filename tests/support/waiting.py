"""Finds where a step waits for its device, on a machine without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# Operations whose result the host must know before it can go on.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}


class Waits(TorchDispatchMode):
    """Counts the operations that would wait, on tensors that would lie on the device: those that are given, and all
    that is computed from them.
    """

    def __init__(self, tensors):
        super().__init__()
        self.on_device = WeakIdKeyDictionary()
        self.seen = []
        for tensor in tensors:
            self.on_device[tensor] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        touched = any(tensor in self.on_device for tensor in given)
        if touched and (name := func._schema.name) in WAITING:
            self.seen.append(name)
        # A mask of the device as an index asks how many places are true.
        if func._schema.name in ("aten::index.Tensor", "aten::index", "aten::index_put_"):
            masks = [
                leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool
            ]
            self.seen += ["a mask as an index"] * sum(mask in self.on_device for mask in masks)
        result = func(*args, **kwargs)
        if touched:
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.on_device[tensor] = True
        return result
