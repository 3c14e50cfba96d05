"""FineViT against the vision towers of Qwen2.5-VL and SigLIP 2 (NaFlex): same width and depth, same batch.

    python -m benchmarks.encoder.towers                     # ragged mix of 196 to 1600 patches, fp32, half a minute
    python -m benchmarks.encoder.towers --size base         # all layers of a size: minutes on a CPU
    python -m benchmarks.encoder.towers --device cuda --size full  # bf16, TFLOP/s against a measured matrix product
    python -m benchmarks.encoder.towers --device cuda --size full --preset uniform448

All models have random weights, the same hidden size, depth, heads and MLP width (SigLIP 2's MLP is ungated: it has a
third fewer MLP weights), attend over whole images, and run in turns within one process, so that a change of the
machine's load meets all of them. Qwen gets its two temporal frames per patch, SigLIP 2 is padded to the longest image,
as their processors do. Without --size, the first two layers of the size small are measured on a CPU, and all of base
on a GPU. Prints images/s and the ratios, and writes them as JSON with versions and machine. On a machine that others
use too, wall-clock says little: `ratios_cpu_time` compares the CPU seconds of this process.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from benchmarks.measuring import Seconds, add_out, conditions, progress, timed, write_figures
from finevit_training.loop.speed import matmul_flops_per_second, synchronize
from modeling_finevit import FINEVIT_SIZES, FineViTConfig, FineViTModel

# Rows and columns of patches, 196 to 1600 a picture: portraits, landscapes and squares, 6,292 patches in all.
PRESETS = {
    "ragged": [(14, 14), (20, 28), (40, 40), (24, 18), (16, 34), (30, 30), (36, 22), (14, 20), (26, 38)],
    "uniform448": [(32, 32)] * 8,
}
Step = Callable[[], torch.Tensor]
PACKAGES = ("torch", "transformers")


def finevit_step(config: FineViTConfig, grid: torch.Tensor, args: argparse.Namespace) -> tuple[PreTrainedModel, Step]:
    model = FineViTModel._from_config(config, attn_implementation=args.attn_implementation)
    model = model.to(args.device, args.dtype)
    patches = torch.randn(int(grid.prod(-1).sum()), 588).to(args.device, args.dtype)
    return model, lambda: model(patches, grid).last_hidden_state


def qwen_step(config: FineViTConfig, grid: torch.Tensor, args: argparse.Namespace) -> tuple[PreTrainedModel, Step]:
    tower_config = Qwen2_5_VLVisionConfig(
        depth=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or 3 * config.hidden_size,
        num_heads=config.num_attention_heads,
        out_hidden_size=config.hidden_size,
        fullatt_block_indexes=list(range(config.num_hidden_layers)),
    )
    implementation = "flash_attention_2" if args.attn_implementation == "flash_attention_2" else "sdpa"
    model = Qwen2_5_VisionTransformerPretrainedModel._from_config(tower_config, attn_implementation=implementation)
    model.merger.mlp = nn.Identity()  # the projector is no part of the encoder
    model = model.to(args.device, args.dtype)
    patches = torch.randn(int(grid.prod(-1).sum()), 2 * 588).to(args.device, args.dtype)
    grid = grid.to(args.device)
    return model, lambda: model(patches, grid).last_hidden_state


def siglip_step(config: FineViTConfig, grid: torch.Tensor, args: argparse.Namespace) -> tuple[PreTrainedModel, Step]:
    tower_config = Siglip2VisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or 3 * config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        patch_size=14,
        vision_use_head=False,
    )
    model = Siglip2VisionModel._from_config(tower_config, attn_implementation="sdpa").to(args.device, args.dtype)
    lengths = grid.prod(-1)
    patches = torch.randn(len(grid), int(lengths.max()), 588).to(args.device, args.dtype)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(args.device, torch.int32)
    shapes = grid[:, 1:].to(args.device)
    return model, lambda: model(patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state


def finished(action: Callable[[], Any], device: str) -> Seconds:
    """How long one call took until the device was done with it."""
    synchronize(torch.device(device))
    return timed(lambda: (action(), synchronize(torch.device(device))))


def forward(step: Step) -> None:
    with torch.no_grad():
        step()


def forward_backward(model: PreTrainedModel, step: Step) -> None:
    model.zero_grad(set_to_none=True)
    step().sum().backward()


def measure(models: dict[str, tuple[PreTrainedModel, Step]], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds per model and direction, the models in turns after a warm-up, until repeats or budget are used up."""
    seconds: dict[str, dict[str, list[Seconds]]] = {name: {"forward": [], "forward_backward": []} for name in models}
    turns, start = args.repeats + args.warmup, time.monotonic()
    for turn in range(turns):
        if turn > args.warmup and time.monotonic() - start > args.budget:
            progress(f"{args.budget:g} s are over after {turn - args.warmup} of {args.repeats} turns")
            break
        said = []
        for name, (model, step) in models.items():
            once = finished(lambda step=step: forward(step), args.device)
            both = finished(lambda model=model, step=step: forward_backward(model, step), args.device)
            said.append(f"{name} {once.wall:.2f} s, with backward {both.wall:.2f} s")
            if turn >= args.warmup:
                seconds[name]["forward"].append(once)
                seconds[name]["forward_backward"].append(both)
        warm = " (warm-up)" if turn < args.warmup else ""
        progress(f"turn {turn + 1} of {turns}{warm}: {'; '.join(said)}")
    return {name: {kind: summary(runs) for kind, runs in by.items()} for name, by in seconds.items()}


def summary(runs: list[Seconds]) -> dict[str, Any]:
    wall, cpu = (list(clock) for clock in zip(*runs, strict=True))
    return {"min_s": min(wall), "median_s": statistics.median(wall), "wall_s": wall, "cpu_s": cpu}


def ratios(results: dict[str, dict[str, Any]], peer: str, clock: str) -> dict[str, float]:
    """How many times faster FineViT is than `peer`: median over the turns of the ratio within one turn."""
    return {
        kind: statistics.median(
            theirs / ours
            for theirs, ours in zip(results[peer][kind][clock], results["finevit"][kind][clock], strict=True)
        )
        for kind in ("forward", "forward_backward")
    }


def encoder_flops(config: FineViTConfig, grid: torch.Tensor) -> int:
    """Multiply-adds times two of one forward: projections, MLP, attention products and patch embedding."""
    width, lengths = config.hidden_size, grid.prod(-1)
    per_patch = 4 * width**2 + 3 * width * (config.intermediate_size or 3 * width)
    attention = 2 * width * int((lengths**2).sum())
    layers = config.num_hidden_layers * (per_patch * int(lengths.sum()) + attention)
    return 2 * (layers + 588 * width * int(lengths.sum()))


def utilisation(results: dict[str, Any], config: FineViTConfig, grid: torch.Tensor, args: argparse.Namespace) -> dict:
    """Achieved FLOP/s of FineViT, and as a share of the measured matrix product; a backward counts as two forwards."""
    ceiling = matmul_flops_per_second(torch.device(args.device), args.dtype)
    flops = encoder_flops(config, grid)
    report: dict[str, Any] = {"matmul_tflops": ceiling / 1e12}
    for kind, passes in (("forward", 1), ("forward_backward", 3)):
        achieved = passes * flops / results["finevit"][kind]["median_s"]
        report[kind] = {"tflops": achieved / 1e12, "share_of_matmul": achieved / ceiling}
    return report


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(FINEVIT_SIZES), help="all its layers")
    parser.add_argument("--layers", type=int, help="fewer layers of the same width, where time is short")
    parser.add_argument("--preset", choices=list(PRESETS), default="ragged")
    parser.add_argument("--attn-implementation", help="default: torch_varlen on cuda, sdpa on cpu")
    parser.add_argument("--repeats", type=int, default=5, help="turns of the models")
    parser.add_argument("--budget", type=float, default=45, help="seconds after which no turn begins but the first")
    parser.add_argument("--warmup", type=int, default=1, help="turns before the first that counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_out(parser, "encoder_towers")
    args = parser.parse_args(argv)
    if args.size is None:
        args.size = "base" if args.device == "cuda" else "small"
        args.layers = args.layers or (None if args.device == "cuda" else 2)
    args.dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    args.attn_implementation = args.attn_implementation or ("torch_varlen" if args.device == "cuda" else "sdpa")
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    grid = torch.tensor([[1, rows, columns] for rows, columns in PRESETS[args.preset]])
    config = FineViTConfig.from_size(args.size, **({"num_hidden_layers": args.layers} if args.layers else {}))
    builders = {"finevit": finevit_step, "qwen2_5_vl": qwen_step, "siglip2": siglip_step}
    models = {name: build(config, grid, args) for name, build in builders.items()}
    progress(f"{len(models)} models of {config.num_hidden_layers} layers of width {config.hidden_size} are built")
    results = measure(models, args)
    report = {
        **conditions(PACKAGES),
        "setting": {key: str(value) for key, value in vars(args).items() if key != "out"}
        | {"images": len(grid), "patches": int(grid.prod(-1).sum()), "layers": config.num_hidden_layers},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in models.items()},
        "results": results,
        "ratios": {peer: ratios(results, peer, "wall_s") for peer in ("qwen2_5_vl", "siglip2")},
        "ratios_cpu_time": {peer: ratios(results, peer, "cpu_s") for peer in ("qwen2_5_vl", "siglip2")},
    }
    if args.device == "cuda":
        report["utilisation"] = utilisation(results, config, grid, args)
    write_figures(report, args.out)
    show(report, len(grid))
    return report


def show(report: dict[str, Any], images: int) -> None:
    for kind in ("forward", "forward_backward"):
        for name, result in report["results"].items():
            seconds = result[kind]["median_s"]
            ratio = ""
            if name != "finevit":
                wall, cpu = (report[key][name][kind] for key in ("ratios", "ratios_cpu_time"))
                ratio = f"   FineViT is {wall:.2f}x as fast ({cpu:.2f}x by CPU time)"
            print(f"{kind:17s}{name:11s}{images / seconds:9.2f} images/s{ratio}")
    for kind, values in report.get("utilisation", {}).items():
        print(kind, values)


if __name__ == "__main__":
    main()
