"""What tests of the sigmoid loss run on each of four gloo ranks. `python THIS OUT` imports all once and forks them.

Each rank writes to OUT/rank<r>.json how far it is from one process that holds all pairs.
"""

import contextlib
import json
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from modeling_finevit.pretraining import sigmoid_loss as module
from modeling_finevit.pretraining.gradient_cache import cached_backward
from modeling_finevit.pretraining.sigmoid_loss import sigmoid_loss
from tests.support.dual_cases import make_embeds, plain_sigmoid_loss


class Towers(nn.Module):
    """Two towers of one layer with dropout between nothing and nothing, and the loss's scale and bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(16, 8), nn.Linear(16, 8)
        self.scale, self.bias = nn.Parameter(torch.tensor([4.5])), nn.Parameter(torch.tensor([-2.0]))

    def forward(self, images, texts):
        embeds = F.normalize(self.image(images), dim=-1), F.normalize(self.text(texts), dim=-1)
        return embeds, (self.scale.clone(), self.bias.clone())


def deviation(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs if one.numel())


def loss_case(group, counts, chunk_size=4, repeated=False):
    """This rank's part of `sum(counts)` pairs, against all of them in one process."""
    rank, inputs = dist.get_rank(group), make_embeds(sum(counts))
    captions = torch.arange(sum(counts)) % (sum(counts) - 2) if repeated else None  # the first two come again
    loss = plain_sigmoid_loss(*inputs, captions)
    expected = torch.autograd.grad(loss, inputs)
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    own = [inputs[0][mine].detach().requires_grad_(), inputs[1][mine].detach().requires_grad_(), *inputs[2:]]
    uneven = counts if len(set(counts)) > 1 else None
    own_captions = captions[mine] if repeated else None
    options = {"group": group, "pairs_per_rank": uneven, "caption_ids": own_captions}
    part = sigmoid_loss(*own, chunk_size=chunk_size, **options)
    gradients = torch.autograd.grad(part, own)
    # DDP divides what it sums by the number of ranks
    means = [one.detach().clone() / len(counts) for one in (part, gradients[2], gradients[3])]
    for one in means:
        dist.all_reduce(one, group=group)
    found = [means[0], gradients[0] / len(counts), gradients[1] / len(counts), means[1], means[2]]
    return deviation(found, [loss.detach(), expected[0][mine], expected[1][mine], expected[2], expected[3]])


def cached_case(group, exchange=True):
    """Two ranks of twelve pairs, by chunks of five, five and two, under DDP, against one process's plain step."""
    images, texts = (torch.randn(24, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    plain = Towers()
    embeds, others = plain(images, texts)
    plain_sigmoid_loss(*embeds, *others).backward()
    towers, rank = Towers(), dist.get_rank(group)
    wrapped = DistributedDataParallel(towers, process_group=group)
    mine = slice(12 * rank, 12 * rank + 12)
    chunks = [{"images": a, "texts": b} for a, b in zip(images[mine].split(5), texts[mine].split(5), strict=True)]
    with contextlib.nullcontext() if exchange else wrapped.no_sync():
        cached_backward(
            lambda chunk: wrapped(**chunk),
            chunks,
            lambda embeds, others: sigmoid_loss(*embeds, *others, chunk_size=4, group=group),
            without_sync=wrapped.no_sync,
        )
    return deviation([p.grad for p in towers.parameters()], [p.grad for p in plain.parameters()])


def on_rank(rank, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=4)
    one, two = dist.new_group([0]), dist.new_group([0, 1])
    everyone = dist.group.WORLD
    found = {}
    if rank == 0:
        found["1 rank"] = loss_case(one, [12])
    if rank < 2:
        found["2 ranks"] = loss_case(two, [6, 6])
        found["2 uneven ranks"] = loss_case(two, [7, 3])
        found["cached, 2 ranks"] = cached_case(two)
        found["cached, 2 ranks, without the last exchange"] = cached_case(two, exchange=False)
    found["4 ranks"] = loss_case(everyone, [8, 8, 8, 8])
    found["4 ranks, uneven tiles"] = loss_case(everyone, [8, 8, 8, 8], chunk_size=3)
    found["4 ranks, repeated captions"] = loss_case(everyone, [4, 4, 5, 3], repeated=True)
    found["4 uneven ranks"] = loss_case(everyone, [5, 1, 9, 4])
    found["4 ranks, one with nothing"] = loss_case(everyone, [5, 0, 3, 4])
    add, calls = module._Tiles.add, []

    def skipping(*args, **kwargs):
        calls.append(None)
        if len(calls) != 3:
            add(*args, **kwargs)

    with mock.patch.object(module._Tiles, "add", skipping):
        found["4 ranks, one skipped"] = loss_case(everyone, [8, 8, 8, 8])
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.start_processes(on_rank, (Path(sys.argv[1]),), nprocs=4, start_method="fork")
