"""All three stages at their own picture sizes, by their own scripts: images/s, MFU, memory against the dry run.

    python -m benchmarks.training.stages --size nano --steps 2 --pictures 4         # a CPU: does it run at all?
    python -m benchmarks.training.stages --size full --attention torch_varlen sdpa  # one GPU

Stage I sees 252² pixels with a random DINOv3 for a teacher (ViT-L/16 with `--size full`), stage II 448², stage III
1008². `uniform` pictures have exactly that size; `ragged` ones have a quarter to all of its pixels at aspect ratios of
1:2 to 2:1. Every run is the script as a user starts it. Its figures are those of the second half of its steps, because
kernels are compiled and tuned in the first. MFU counts the student's products; the teacher's share of the time stands
beside it.
On a CPU the memory is that of the whole process.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import DINOv3ViTConfig, DINOv3ViTModel, ViTImageProcessorPil

from benchmarks.measuring import add_out, conditions, progress, write_figures

PACKAGES = ("torch", "transformers", "trl", "accelerate", "pillow")
EDGES = {"mim": 252, "contrastive": 448, "align": 1008}
CAPTION = "A field of coloured noise. It shows nothing that anybody could name, and it is drawn to be measured."
PATCHES_OF_A_TOKEN = 4
TEXT_TOKENS = 128  # of a conversation of stage III, with room to spare


def draw_pictures(folder: Path, edge: int, ragged: bool, count: int, seed: int) -> None:
    """JPEGs with captions beside them."""
    folder.mkdir()
    stream, noise = random.Random(seed), np.random.default_rng(seed)
    for number in range(count):
        area, aspect = (stream.uniform(0.25, 1), 2 ** stream.uniform(-1, 1)) if ragged else (1.0, 1.0)
        width, height = (round(edge * (area * ratio) ** 0.5) for ratio in (aspect, 1 / aspect))
        coarse = Image.fromarray(noise.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
        (folder / f"{number:05d}.txt").write_text(f"{CAPTION} It is number {number}.")


def save_teacher(folder: Path, size: str) -> Path:
    """A random DINOv3: ViT-L/16 beside the full encoder, a small one beside the others."""
    width, layers, heads = (1024, 24, 16) if size == "full" else (64, 2, 2)
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=16,
        num_register_tokens=4,
    )
    DINOv3ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder


def flags_of(stage: str, args: argparse.Namespace, attention: str, scratch: Path) -> dict[str, Any]:
    """The recipe of a stage for a few steps at its picture size."""
    pixels, patches = EDGES[stage] ** 2, (EDGES[stage] // 14) ** 2
    flags: dict[str, Any] = {
        "size": args.size,
        "max_pixels": pixels,
        "max_steps": 2 * args.steps,
        "logging_steps": args.steps,
        "bf16": "auto",
        "compile_blocks": "auto" if attention in ("torch_varlen", "flash_attention_2") else "false",
        "dataloader_num_workers": args.workers,
        "seed": args.seed,
    }
    if stage == "mim":
        own = {
            "max_patches": args.pictures * patches,
            "teacher": scratch / "teacher",
            "attn_implementation": attention,
        }
        return flags | own | {"per_device_train_batch_size": 1}
    flags["attn_implementation"] = json.dumps({"vision_config": attention, "text_config": "sdpa"})
    if stage == "contrastive":
        return flags | {"per_device_train_batch_size": args.pictures, "text_frozen_share": 0}
    row = patches // PATCHES_OF_A_TOKEN + TEXT_TOKENS
    own = {"mixture": '{"global_caption": 1}', "max_length": row, "per_device_train_batch_size": args.pictures}
    return flags | own


def measure(stage: str, kind: str, attention: str, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one run, and what its dry run says of the memory."""
    out = scratch / f"{stage}-{kind}-{attention}"
    flags = flags_of(stage, args, attention, scratch) | {"data": scratch / f"{stage}-{kind}", "output_dir": out}
    command = [sys.executable, "-m", f"finevit_training.{stage}"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    planned = _run([*command, "--dry_run", args.hardware])
    _run(command)
    last = json.loads((out / "training_curve.json").read_text())[-1]
    found = re.search(r"recomputed: ([\d.]+) of", planned)
    assert found, planned
    names = ("images_per_second", "tokens_per_second", "mfu", "teacher_share", "padding_share", "memory_gb")
    return {name: last[name] for name in names if name in last} | {"planned_memory_gb": float(found[1])}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="nano", help="of the encoder")
    parser.add_argument("--stages", nargs="+", choices=EDGES, default=list(EDGES))
    parser.add_argument("--kinds", nargs="+", choices=("uniform", "ragged"), default=["uniform", "ragged"])
    parser.add_argument("--attention", nargs="+", default=["sdpa"], help="of the encoder: torch_varlen, sdpa, ...")
    parser.add_argument("--pictures", type=int, default=8, help="of a step")
    parser.add_argument("--steps", type=int, default=10, help="that are measured, after as many that are not")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--hardware", default="H100", help="that the dry run is for")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_stages")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        save_teacher(scratch / "teacher", args.size)
        for stage in args.stages:
            for kind in args.kinds:
                draw_pictures(
                    scratch / f"{stage}-{kind}", EDGES[stage], kind == "ragged", 4 * args.pictures, args.seed
                )
                for attention in args.attention:
                    found = measure(stage, kind, attention, args, scratch)
                    figures.append({"stage": stage, "pictures": kind, "attention": attention, **found})
                    progress(json.dumps(figures[-1]))
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, "runs": figures}
    write_figures(report, args.out)
    for run in figures:
        print(
            f"{run['stage']:<12} {run['pictures']:<8} {run['attention']:<18} {run['images_per_second']:8.1f} images/s "
            f"MFU {run['mfu']:5.1%} memory {run['memory_gb']:6.2f} GB (planned {run['planned_memory_gb']:.2f})"
        )
    return report


if __name__ == "__main__":
    main()
