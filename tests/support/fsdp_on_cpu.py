"""Runs a module as `python -m` does, with FSDP2 on CPU ranks, which accelerate keeps for accelerators."""

import runpy
import sys
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

_init = PartialState.__init__


def _as_an_accelerator(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU  # what accelerate turns into FSDP where it is asked


PartialState.__init__ = _as_an_accelerator  # ty: ignore[invalid-assignment]
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
