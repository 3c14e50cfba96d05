# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Stage II's text tower: SigLIP's, with a longer table of positions, and texts brought to the form it was trained on.

SigLIP's text towers have no attention mask and pool the last position of a text that is padded to a fixed length on
the right. A text that is padded otherwise gets another, wrong embedding, so nothing here depends on how it came.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, Siglip2TextModel, SiglipTextModel

# The published SigLIP 2 giant, the paper's start, is a `siglip` folder; the NaFlex ones are `siglip2`.
TextTower = Siglip2TextModel | SiglipTextModel
TEXT_MODELS: dict[str, type[TextTower]] = {
    "siglip2_text_model": Siglip2TextModel,
    "siglip_text_model": SiglipTextModel,
}

PositionStretch = Literal["linear", "keep_20"]
# Long-CLIP (Zhang et al. 2024) and FG-CLIP 2: short captions trained the first 20 positions well, so they stay.
_KEPT_POSITIONS = {"linear": 0, "keep_20": 20}


def check_text_tower(model_type: str, name: str) -> None:
    """Refuses what is no text tower of SigLIP's kind.

    Raises:
        ValueError: `model_type` is another; the message begins with `name`.
    """
    if model_type not in TEXT_MODELS:
        raise ValueError(
            f"{name} is a {model_type}, which is no text tower: take one of {', '.join(TEXT_MODELS)}, or a whole "
            "SigLIP or SigLIP 2."
        )


def load_text_tower(
    folder: str | Path, text_length: int, stretch: PositionStretch = "linear", **kwargs: Any
) -> TextTower:
    """A text tower with `text_length` positions out of a folder (or Hub id).

    Args:
        folder: of a `Siglip2TextModel` or `SiglipTextModel`, or of a whole SigLIP or SigLIP 2, whose text tower it is.
        text_length: positions afterwards, at least as many as before.
        stretch: how they are made, see [`stretch_positions`]; without meaning where the length stays.
        kwargs: for `from_pretrained`.

    Raises:
        ValueError: a folder of something else, or fewer positions than it has.
    """
    config = AutoConfig.from_pretrained(folder)
    model_type = getattr(config, "text_config", config).model_type
    check_text_tower(model_type, str(folder))
    tower = TEXT_MODELS[model_type].from_pretrained(folder, **kwargs)
    if tower.config.max_position_embeddings != text_length:
        _set_positions(tower, stretch_positions(_embeddings(tower).position_embedding.weight, text_length, stretch))
    return tower


def stretch_positions(table: torch.Tensor, length: int, stretch: PositionStretch) -> torch.Tensor:
    """A longer table of positions by linear interpolation between neighbours (the paper's 64 to 256).

    The last position keeps its vector, because it is the one that is pooled.

    Args:
        table (`torch.FloatTensor` of shape `(old_length, hidden_size)`).
        length: rows afterwards.
        stretch: `linear` stretches all rows, `keep_20` leaves the first 20 as they are and stretches the others
            (Long-CLIP).

    Returns:
        `(length, hidden_size)`.

    Raises:
        ValueError: an unknown stretch, a shorter table, or one too short to keep 20 rows of.
    """
    if stretch not in _KEPT_POSITIONS:
        raise ValueError(f"Unknown stretch {stretch!r}: expected one of {', '.join(_KEPT_POSITIONS)}.")
    kept, last = _KEPT_POSITIONS[stretch], len(table) - 1
    if length < len(table) or kept >= len(table):
        raise ValueError(
            f"A table of {len(table)} positions cannot become one of {length} by {stretch!r}: a text tower can only "
            f"grow{f', and must have more than {kept} positions' if kept else ''}."
        )
    places = torch.cat(
        [torch.arange(kept, dtype=torch.float64), torch.linspace(kept, last, length - kept, dtype=torch.float64)]
    )
    low = places.floor().long().clamp(max=last - 1)
    share = (places - low)[:, None].to(table.device)
    wide = table.detach().double()
    return (wide[low] * (1 - share) + wide[low + 1] * share).to(table.dtype)


def to_fixed_length(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    length: int,
    pad_token_id: int,
    eos_token_id: int | None = None,
) -> torch.Tensor:
    """Token ids as the tower was trained on them: a text's tokens first, then padding up to the fixed length.

    A text of more tokens is cut, and an end-of-text token kept at its end, as tokenizers do.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, any)`): padded left, right or not at all.
        attention_mask (`torch.LongTensor` of the same shape, *optional*): 0 for padding; `pad_token_id` always is.
        length: tokens afterwards.
        pad_token_id: what padding is.
        eos_token_id: of the tokenizer; may be the same.

    Returns:
        `(batch, length)`.
    """
    padding = input_ids == pad_token_id
    if attention_mask is not None:
        padding = padding | (attention_mask == 0)
    tokens_first = torch.argsort(padding.byte(), dim=-1, stable=True)
    input_ids = input_ids.masked_fill(padding, pad_token_id).gather(-1, tokens_first)
    too_few = max(0, length - input_ids.shape[1])
    cut = F.pad(input_ids[:, :length], (0, too_few), value=pad_token_id)
    if eos_token_id is not None and not too_few:
        counts = (~padding).sum(-1)
        if eos_token_id == pad_token_id:  # which counts as padding, and stands behind the text
            ends = counts >= length
        else:
            last = input_ids.gather(-1, (counts - 1).clamp(min=0)[:, None])[:, 0]
            ends = (counts > length) & (last == eos_token_id)
        cut[:, -1] = torch.where(ends, eos_token_id, cut[:, -1])
    return cut


def padding_mask(input_ids: torch.Tensor, pad_token_id: int, attn_implementation: str | None) -> torch.Tensor:
    """What hides padding from a tower's attention, in the form that its implementation takes.

    transformers makes these forms of a plain mask as well, but asks the device whether anything is hidden at all.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`): the padding is behind the text. The first token is
            always seen, so that an empty text is one token of padding.

    Returns:
        `(batch, 1, 1, length)` for sdpa (`True` is seen) and eager (added to the scores), else `(batch, length)`.
    """
    seen = input_ids != pad_token_id
    seen[:, 0] = True
    if attn_implementation == "sdpa":
        return seen[:, None, None]
    if attn_implementation == "eager":
        scores = torch.zeros(seen.shape, device=seen.device)
        return scores.masked_fill(~seen, torch.finfo(torch.float32).min)[:, None, None]
    return seen.long()


def _embeddings(tower: nn.Module) -> Any:
    return next(module for module in tower.modules() if hasattr(module, "position_embedding"))


def _set_positions(tower: TextTower, table: torch.Tensor) -> None:
    embeddings = _embeddings(tower)
    embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
    embeddings.position_ids = torch.arange(len(table), device=table.device).expand(1, -1)
    tower.config.max_position_embeddings = len(table)


__all__ = [
    "TEXT_MODELS",
    "PositionStretch",
    "TextTower",
    "check_text_tower",
    "load_text_tower",
    "padding_mask",
    "stretch_positions",
    "to_fixed_length",
]
