"""The loader that a run's configuration asks for."""

from collections.abc import Callable
from typing import Any

from accelerate.utils import gather_object

from finevit_training.data.loader import PackedLoader, Shape
from finevit_training.data.order import RoundKey
from finevit_training.data.reader import Reader


def loader_for(
    args: Any,
    reader: Reader,
    fraction: Callable[[RoundKey, int], float],
    rows: int | None = None,
    accumulation: int | None = None,
    **options: Any,
) -> PackedLoader:
    """The loader of this rank, in the shape and with the processes that a run's configuration says.

    Args:
        args: `LoopArguments` and TrainingArguments.
        fraction: see `PackedLoader`, as `options`.
        rows, accumulation: of an evaluation; by default those of the training.
    """
    shape = Shape(
        capacity=args.row_capacity,
        rows=rows or args.per_device_train_batch_size,
        accumulation=accumulation or args.gradient_accumulation_steps,
        ranks=args.world_size,
        rank=args.process_index,
    )
    return PackedLoader(
        reader,
        shape,
        fraction,
        exchange=lambda mine: gather_object([mine]),
        workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        **options,
    )
