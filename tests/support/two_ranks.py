"""What the tests of several processes run on each of two: `accelerate launch --cpu --num_processes 2 THIS OUT CORPUS`.

Each rank writes what it saw to OUT/rank<r>.json. Its folder is OUT/node<r>, as on nodes without a shared disk.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from finevit_training.checkpoint import find_checkpoint
from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from tests.support.launching import SMALLEST


def checkpoint(folder: Path, step: int) -> None:
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")


def found(folder: Path, wanted: str) -> str | None:
    try:
        path = find_checkpoint(folder, wanted)
    except ValueError as error:
        return f"ValueError: {error}"
    return path and Path(path).name


def main() -> None:
    out, corpus = Path(sys.argv[1]), sys.argv[2]
    rank = PartialState(cpu=True).process_index
    seen = {}
    node = out / f"node{rank}"
    for step in (2, 4) if rank == 0 else (2,):
        checkpoint(node, step)
    seen["common"] = found(node, "last")
    seen["kept"] = sorted(path.name for path in node.iterdir())
    checkpoint(out / f"only{rank}" if rank == 0 else out / "other", 6)
    seen["only_one"] = found(out / "only0" if rank == 0 else out / "empty", "last")
    seen["nowhere"] = found(out / "empty", "last-or-start")

    flags = {**SMALLEST, "data": corpus, "output_dir": out / "run", "max_steps": 3, "eval_strategy": "steps"}
    flags |= {"eval_steps": 1, "eval_split": "train", "per_device_eval_batch_size": 5}
    trainer = build_trainer(parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))]))
    seen["eval_loss"] = trainer.evaluate()["eval_loss"]
    if rank == 1:  # the second step's loss is no number, on this rank alone

        def poison(module, args, kwargs, outputs):
            if module.training and trainer.state.global_step == 1:
                outputs.logits = outputs.logits * torch.nan
            return outputs

        trainer.model.register_forward_hook(poison, with_kwargs=True)
    try:
        trainer.train()
    except FloatingPointError as error:
        seen["stopped"] = str(error)
    seen["step"] = trainer.state.global_step
    (out / f"rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
