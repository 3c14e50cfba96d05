"""The language model's forward and backward over packed rows: segments against a dense mask, padding and a loop.

    python -m benchmarks.training.attention                           # nano, rows of 1024 and 2048 tokens, a minute
    python -m benchmarks.training.attention --device cuda --size base --lengths 4096 --tokens 65536

A sample is a picture of 50 to 110 tokens and 2 to 6 turns about it of 10 to 60 tokens, none of which sees another. The
same samples are given to every contender:

- `segments`: packed rows with a table of segments (`finevit_vl.packed_layout`), which each forward reads anew;
- `dense`: the same rows with a (rows, 1, length, length) mask, which each forward makes;
- `padded`: one sample a row, as long as the longest, with the mask of its turns;
- `loop`: packed rows, attention one segment at a time.

All contenders run in turns within one process, under autocast to bfloat16, without pictures and without the head, so
that a change of the machine's load meets all of them; `ratios_cpu_time` compares the CPU seconds of this process. On a
machine that others use too it says more, with `--threads 1`: threads that wait for each other burn time. Prints
milliseconds and writes them as JSON.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoModel, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.measuring import Seconds, add_out, conditions, progress, timed, write_figures
from finevit_training.loop.speed import synchronize
from finevit_vl import FineViTVLConfig
from finevit_vl.packed_attention import forward_in_segments
from finevit_vl.packed_layout import PackedLayout

Step = Callable[[], torch.Tensor]
PACKAGES = ("torch", "transformers")
LONGEST_SAMPLE = 110 + 6 * 60


def draw_samples(tokens: int, length: int, seed: int = 0) -> list[list[int]]:
    """Samples that fill rows of `length` up to about `tokens`: tokens of the picture, then of each turn."""
    stream, samples, used = random.Random(seed), [], 0
    while used < tokens - length // 8:
        turns = [stream.randint(10, 60) for _ in range(stream.randint(2, 6))]
        samples.append([stream.randint(50, 110), *turns])
        used += sum(samples[-1])
    return samples


def lay_out(samples: list[list[int]], length: int) -> tuple[torch.Tensor, int]:
    """The table of segments of samples that are put into rows in order, and the number of rows."""
    table, place = [], 0
    for picture, *turns in samples:
        if place % length + picture + sum(turns) > length:
            place += -place % length
        start, place = place, place + picture
        table.append([start, picture, 0, 0])
        for turn in turns:
            table.append([place, turn, start, picture])
            place += turn
    return torch.tensor(table, dtype=torch.int32), -(-place // length)


def dense_mask(table: torch.Tensor, rows: int, length: int, device: str) -> torch.Tensor:
    """(rows, 1, length, length) of bfloat16, 0 where seen."""
    own, prefix = torch.full((2, rows * length), -1)
    number_at = {start: number for number, start in enumerate(table[:, 0].tolist())}
    for number, (start, size, prefix_start, prefix_size) in enumerate(table.tolist()):
        own[start : start + size] = number
        prefix[start : start + size] = number_at[prefix_start] if prefix_size else number
    own, prefix = (numbers.view(rows, length).to(device) for numbers in (own, prefix))
    visible = (own[:, :, None] == own[:, None]) | (prefix[:, :, None] == own[:, None])
    visible = visible.tril_()
    mask = torch.zeros(visible.shape, dtype=torch.bfloat16, device=device)
    return mask.masked_fill_(visible.logical_not_(), torch.finfo(torch.bfloat16).min)[:, None]


def loop_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    segments: Any = (),
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """sdpa, one segment at a time."""
    shape = query.shape
    q, k, v = (states.transpose(1, 2).flatten(0, 1).bfloat16() for states in (query, key, value))
    outputs: list[torch.Tensor] = []
    place = 0
    for start, size, prefix_start, prefix_size in segments:
        outputs.append(torch.zeros_like(q[place:start]))
        place, prefix = start + size, slice(prefix_start, prefix_start + prefix_size)
        k_seen, v_seen = (torch.cat([states[prefix], states[start:place]]).transpose(0, 1)[None] for states in (k, v))
        mask = torch.ones(size, prefix_size + size, dtype=torch.bool, device=q.device).tril(prefix_size)
        query = q[start:place].transpose(0, 1)[None]
        outputs.append(sdpa_attention_forward(module, query, k_seen, v_seen, mask, scaling=scaling)[0][0])
    outputs.append(torch.zeros_like(q[place:]))
    return torch.cat(outputs).view(shape[0], shape[2], *outputs[0].shape[1:]), None


def with_segments(model: PreTrainedModel, samples: list[list[int]], length: int, attention: str) -> Step:
    table, rows = lay_out(samples, length)
    embeds = embeddings(model, rows, length)

    def step() -> torch.Tensor:
        model.config._attn_implementation = attention
        layout = PackedLayout.read(table, embeds)
        return forward_in_segments(model, layout, {"inputs_embeds": embeds}).last_hidden_state

    return step


def with_mask(model: PreTrainedModel, samples: list[list[int]], length: int, attention: str) -> Step:
    table, rows = lay_out(samples, length)
    embeds = embeddings(model, rows, length)
    positions = PackedLayout.read(table, embeds).position_ids

    def step() -> torch.Tensor:
        model.config._attn_implementation = attention
        mask = dense_mask(table, rows, length, str(embeds.device))
        inputs = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
        return model(inputs_embeds=embeds, **inputs).last_hidden_state

    return step


def in_a_loop(model: PreTrainedModel, samples: list[list[int]], length: int, attention: str) -> Step:
    table, rows = lay_out(samples, length)
    embeds = embeddings(model, rows, length)
    positions = PackedLayout.read(table, embeds).position_ids

    def step() -> torch.Tensor:
        model.config._attn_implementation = attention
        inputs = {"segments": table.tolist(), "position_ids": positions, "use_cache": False}
        return model(inputs_embeds=embeds, **inputs).last_hidden_state

    return step


def embeddings(model: PreTrainedModel, rows: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, length, model.config.hidden_size, generator=generator).to(model.device)


def contenders(model: PreTrainedModel, args: argparse.Namespace, length: int) -> dict[str, Step]:
    samples = draw_samples(args.tokens, length)
    longest = max(map(sum, samples))
    longest += -longest % 16
    steps = {f"segments {name}": with_segments(model, samples, length, name) for name in args.attentions}
    steps |= {f"dense {name}": with_mask(model, samples, length, name) for name in ("eager", "sdpa")}
    steps |= {f"padded {name}": with_mask(model, samples, longest, name) for name in ("eager", "sdpa")}
    return steps | {"loop sdpa": in_a_loop(model, samples, length, "one_by_one")}


def measure(
    model: PreTrainedModel, steps: dict[str, Step], args: argparse.Namespace, until: float
) -> dict[str, dict[str, Any]]:
    """Seconds of each contender's forward and backward, in turns after a warm-up, until repeats or time are over."""
    device, seconds = torch.device(args.device), {name: [] for name in steps}

    def once(step: Step) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16):
            states = step()
        states.float().square().mean().backward()
        synchronize(device)

    for turn in range(args.repeats + 1):
        if turn > 1 and time.monotonic() > until:
            progress(f"the time is over after {turn - 1} of {args.repeats} turns")
            break
        runs = {name: timed(lambda step=step: once(step)) for name, step in steps.items()}
        said = ", ".join(f"{name} {1e3 * run.wall:.0f}" for name, run in runs.items())
        progress(f"turn {turn} of {args.repeats}{' (warm-up)' if turn == 0 else ''}, ms: {said}")
        for name, run in runs.items() if turn else ():
            seconds[name].append(run)
    return {name: summary(runs) for name, runs in seconds.items()}


def summary(runs: list[Seconds]) -> dict[str, Any]:
    wall, cpu = (list(clock) for clock in zip(*runs, strict=True))
    return {"median_ms": 1e3 * statistics.median(wall), "min_ms": 1e3 * min(wall), "wall_s": wall, "cpu_s": cpu}


def ratios(results: dict[str, Any], ours: str, clock: str) -> dict[str, float]:
    """How many times faster `ours` is than each other: median over the turns of the ratio within one turn."""
    return {
        name: statistics.median(a / b for a, b in zip(result[clock], results[ours][clock], strict=True))
        for name, result in results.items()
        if name != ours
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", default="nano", help="of the language model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048], help="tokens of a packed row")
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch")
    parser.add_argument("--attentions", nargs="+", help="with segments; default: sdpa and eager, torch_varlen on cuda")
    parser.add_argument("--repeats", type=int, default=5, help="turns of the contenders")
    parser.add_argument("--budget", type=float, default=15, help="seconds a length after which no turn begins")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_out(parser, "training_attention")
    args = parser.parse_args(argv)
    if min(args.lengths) < LONGEST_SAMPLE:
        parser.error(f"--lengths: a row must hold the longest sample, {LONGEST_SAMPLE} tokens")
    args.attentions = args.attentions or (["torch_varlen", "sdpa"] if args.device == "cuda" else ["sdpa", "eager"])
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    AttentionInterface.register("one_by_one", loop_attention)
    config = FineViTVLConfig.from_size(args.size).text_config
    model = AutoModel.from_config(config).to(args.device).train()
    progress(f"a language model of {config.num_hidden_layers} layers of width {config.hidden_size} is built")
    lengths: dict[int, dict[str, Any]] = {}
    for length in args.lengths:
        steps = contenders(model, args, length)
        table, rows = lay_out(draw_samples(args.tokens, length), length)
        progress(f"{rows} rows of {length} tokens, {len(table)} segments")
        results = measure(model, steps, args, time.monotonic() + args.budget)
        ours = f"segments {args.attentions[0]}"
        lengths[length] = {"rows": rows, "segments": len(table), "tokens": int(table[:, 1].sum()), "results": results}
        lengths[length] |= {"ratios": ratios(results, ours, "wall_s")}
        lengths[length] |= {"ratios_cpu_time": ratios(results, ours, "cpu_s")}
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, "lengths": lengths}
    write_figures(report, args.out)
    show(report, f"segments {args.attentions[0]}")
    return report


def show(report: dict[str, Any], ours: str) -> None:
    for length, case in report["lengths"].items():
        print(f"{case['rows']} rows of {length} tokens, {case['segments']} segments, forward and backward")
        for name, result in case["results"].items():
            ratio = ""
            if name != ours:
                ratio = (
                    f"   {ours} is {case['ratios'][name]:.2f}x as fast ({case['ratios_cpu_time'][name]:.2f}x by CPU)"
                )
            print(f"  {name:16s}{result['median_ms']:9.0f} ms{ratio}")


if __name__ == "__main__":
    main()
