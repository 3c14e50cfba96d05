"""Pictures to embeddings as retrieval makes them, against the encoder alone and against picture by picture.

    python -m benchmarks.encoder.embedding                       # 36 ragged pictures, all layers of small, a minute
    python -m benchmarks.encoder.embedding --size nano --pictures 180 --longest 28  # small ones
    python -m benchmarks.encoder.embedding --device cuda --size full --pictures 900 --repeats 3

Random weights; opened pictures of 196 to 1600 patches in the mix of `benchmarks.encoder.towers`. In turns within one
process:

- `encoder`: packs of patches that are ready, and nothing else: the encoder's own rate;
- `packs`: `finevit_eval.embedding.embed_images`, resizing and cutting included;
- `single`: the same pictures one by one, as an mteb task with a batch of one is run.

`of_encoder` is the rate of `packs` as a share of the encoder's, `over_single` how many times that of `single` it is:
medians over the turns, each within its own turn, by the clock on the wall and by this process's CPU time.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from benchmarks.encoder.towers import PRESETS, finished
from benchmarks.measuring import Seconds, add_out, conditions, progress, write_figures
from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_images, packs
from modeling_finevit import FINEVIT_SIZES, FineViTConfig, FineViTImageProcessor, FineViTModel

PACKAGES = ("torch", "torchvision", "transformers", "pillow")


def ragged_pictures(number: int, longest: int) -> list[Image.Image]:
    """Noise in the sizes of the mix, whose longest side of patches is brought to `longest`; an eighth larger than the
    patches want, so that each is resized.
    """
    sizes = [PRESETS["ragged"][place % len(PRESETS["ragged"])] for place in range(number)]
    scale = longest / max(max(size) for size in PRESETS["ragged"])
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for rows, columns in sizes:
        height, width = (max(2, round(side * scale)) * 14 * 9 // 8 for side in (rows, columns))
        noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
        pictures.append(Image.fromarray(noise.numpy()))
    return pictures


def arms(embedder: Embedder, pictures: list[Image.Image]) -> dict[str, Callable[[], Any]]:
    prepared = [("", embedder.prepare([picture])) for picture in pictures]
    ready = [
        {name: value.to(embedder.model.device) for name, value in inputs.items()} for _, inputs in packs(prepared, 1)
    ]
    return {
        "encoder": lambda: [embedder.encode(inputs) for inputs in ready],
        "packs": lambda: embed_images(embedder, iter(pictures), 1),
        "single": lambda: [embedder.images([picture]).cpu() for picture in pictures],
    }


def measure(embedder: Embedder, args: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Seconds of each arm, turn by turn, after one that warms up."""
    pictures = ragged_pictures(args.pictures, args.longest)
    actions = arms(embedder, pictures)
    seconds: dict[str, list[Seconds]] = {name: [] for name in actions}
    for turn in range(args.repeats + 1):
        took = {name: finished(action, args.device) for name, action in actions.items()}
        rates = ", ".join(f"{name} {args.pictures / once.wall:.1f}" for name, once in took.items())
        progress(f"turn {turn + 1} of {args.repeats + 1}{' (warm-up)' if turn == 0 else ''}: pictures/s {rates}")
        for name, once in took.items():
            seconds[name] += [once] if turn else []
    return seconds


def ratio(seconds: dict[str, list[Seconds]], other: str) -> dict[str, float]:
    """The other arm's seconds over those of `packs`, by both clocks."""
    turns = list(zip(seconds[other], seconds["packs"], strict=True))
    return {
        clock: statistics.median(getattr(theirs, clock) / getattr(ours, clock) for theirs, ours in turns)
        for clock in Seconds._fields
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(FINEVIT_SIZES), default="small", help="all its layers")
    parser.add_argument("--pictures", type=int, default=36)
    parser.add_argument("--longest", type=int, default=40, help="longest side of the largest picture, in patches")
    parser.add_argument("--repeats", type=int, default=5, help="turns of the arms")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_out(parser, "encoder_embedding")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    dtype, attention = (torch.bfloat16, "torch_varlen") if args.device == "cuda" else (torch.float32, "sdpa")
    config = FineViTConfig.from_size(args.size)
    model = FineViTModel._from_config(config, attn_implementation=attention).to(args.device, dtype)
    seconds = measure(Embedder(model, FineViTImageProcessor()), args)
    medians = {name: statistics.median(once.wall for once in turns) for name, turns in seconds.items()}
    report = {
        **conditions(PACKAGES),
        "setting": {key: str(value) for key, value in vars(args).items() if key != "out"},
        "pictures_per_second": {name: args.pictures / median for name, median in medians.items()},
        "of_encoder": ratio(seconds, "encoder"),
        "over_single": ratio(seconds, "single"),
        "seconds": {name: [once._asdict() for once in turns] for name, turns in seconds.items()},
    }
    write_figures(report, args.out)
    for name, rate in report["pictures_per_second"].items():
        print(f"{name:8s}{rate:9.2f} pictures/s")
    print(f"packs: {report['of_encoder']['wall']:.3f} of the encoder, {report['over_single']['wall']:.2f}x single")
    return report


if __name__ == "__main__":
    main()
