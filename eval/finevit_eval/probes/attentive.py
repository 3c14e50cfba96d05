"""The attentive probe: one learned query looks at a picture's patches, and a linear layer tells the class.

It shows what the patches know where their mean does not: encoders that were trained by masked images (V-JEPA, Bardes
et al. 2024, section 4; AIM, El-Nouby et al. 2024). This is its plainest form, without projections of keys and values
(Psomas et al. 2025, arXiv 2506.10178), so a query of zeros is the linear probe on the mean.

Shape suffixes: T packed patches of all pictures, C channels.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from modeling_finevit.pretraining.pooling import softmax_by_image

EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 40, 32, 1e-2, 1e-2
LEAST_SPREAD = 1e-6
"""Of a channel, beside which one that never changes stays zero."""


class AttentiveHead(nn.Module):
    """Begins as a mean of the patches and with all classes alike, so that it needs no seed.

    Patches, and what is pooled of them, are standardised by the pictures to learn from: without, one step suits some
    channels and hardly moves others (MAE's linear probe has a batch normalisation there, He et al. 2021, A.1).

    Args:
        train: patches `(num_patches, channels)` of each picture to learn from.
        classes: how many.
    """

    patch_stats: torch.Tensor
    pooled_stats: torch.Tensor

    def __init__(self, train: Sequence[torch.Tensor], classes: int) -> None:
        super().__init__()
        channels = train[0].shape[1]
        self.query = nn.Parameter(torch.zeros(channels))
        self.classifier = nn.Linear(channels, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        patches = sum(len(own) for own in train)
        center_C = torch.stack([own.sum(dim=0, dtype=torch.float64) for own in train]).sum(dim=0) / patches
        squares = (((own.double() - center_C) ** 2).sum(dim=0) for own in train)
        spread_C = (torch.stack(list(squares)).sum(dim=0) / patches).sqrt().clamp(min=LEAST_SPREAD)
        means_NC = torch.stack([(own.double().mean(dim=0) - center_C) / spread_C for own in train])
        self.register_buffer("patch_stats", torch.stack([center_C, spread_C]).float())
        pooled_stats = [means_NC.mean(dim=0), means_NC.std(dim=0, correction=0).clamp(min=LEAST_SPREAD)]
        self.register_buffer("pooled_stats", torch.stack(pooled_stats).float())

    def forward(self, patches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits `(num_images, classes)` of the patches `(num_patches, channels)` of each picture, on any device."""
        states_TC = torch.cat(list(patches)).to(self.query.device, self.query.dtype)
        states_TC = (states_TC - self.patch_stats[0]) / self.patch_stats[1]
        lengths = torch.tensor([len(own) for own in patches])
        image_T = torch.repeat_interleave(lengths).to(states_TC.device)
        scores_T = states_TC @ self.query * len(self.query) ** -0.5
        weights_T = softmax_by_image(scores_T[:, None, None], image_T, len(patches))[:, 0]
        pooled = states_TC.new_zeros(len(patches), len(self.query)).index_add(0, image_T, weights_T * states_TC)
        return self.classifier((pooled - self.pooled_stats[0]) / self.pooled_stats[1])


def attentive_scores(
    train: Sequence[torch.Tensor],
    labels: torch.Tensor,
    test: Sequence[torch.Tensor],
    classes: int,
    device: torch.device,
    seed: int,
) -> torch.Tensor:
    """Trains the probe; its logits for other pictures, `(len(test), classes)` float32 on the CPU.

    Args:
        train, test: patches of each picture `(num_patches, channels)`.
        labels: int64 of those to learn from.
        seed: of their order.
    """
    head = AttentiveHead(train, classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train), generator=generator).split(BATCH):
            logits = head([train[row] for row in rows.tolist()])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows].to(device)).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        parts = [head(test[at : at + BATCH]) for at in range(0, len(test), BATCH)]
    return torch.cat(parts).cpu()
