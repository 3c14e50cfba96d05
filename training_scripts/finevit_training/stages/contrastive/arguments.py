"""The keys of a recipe for stage II: both towers, which captions, and how they learn.

[P]: fixed by the paper (arXiv 2603.17326), [D]: this project's default.
"""

from dataclasses import dataclass, field
from typing import Any, cast

from transformers import Siglip2TextConfig

from finecap.tasks.captions import DEFAULT_SHARES, check_shares
from finevit_training.arguments import (
    OF_STAGE_ONE,
    FineViTTrainingArguments,
    SourceArguments,
    parse_attention,
    parse_config,
    parse_json,
)
from finevit_training.examples.pairs import Budget
from modeling_finevit import FineViTConfig

# [P]: 336² and then 448²; [D]: for the first 80 % of the training.
PAPERS_BUDGETS = (Budget(0.8, 336 * 336), Budget(1.0, 448 * 448))
STRETCHES = ("linear", "keep_20")


@dataclass
class DualModelArguments:
    """Where the two towers come from: `model`, or an encoder (`vision`) and a text tower (`text`), of which `size`
    makes from scratch what is not given. All but `size` are folders or ids of the Hub.
    """

    model: str | None = field(default=None, metadata={"help": "FineViTDualModel to go on from."})
    vision: str | None = field(default=None, metadata={"help": "Encoder: a FineViT, such as stage I's output."})
    text: str | None = field(default=None, metadata={"help": "SigLIP or SigLIP 2, or the text tower of one [P]."})
    size: str | None = field(default=None, metadata={"help": "Size of what starts from scratch: nano ... full."})
    vision_config: dict | str | None = field(default=None, metadata={"help": "FineViTConfig fields over `size`."})
    text_config: dict | str | None = field(default=None, metadata={"help": "Siglip2TextConfig fields over `size`."})
    vocab_size: int | None = field(default=None, metadata={"help": "Merge ranks kept of Qwen's tokenizer."})
    text_length: int | None = field(
        default=None, metadata={"help": "Tokens that every caption is padded or cut to. Default: 256 [P]."}
    )
    position_stretch: str | None = field(
        default=None,
        metadata={"help": f"How a text tower's positions grow: {' or '.join(STRETCHES)}. Default: linear [D]."},
    )
    text_projection: bool = field(
        default=False, metadata={"help": "A projection from a text tower that is not as wide as the encoder."}
    )
    num_pooling_queries: int | None = field(
        default=None, metadata={"help": "Learned queries of the attention pooling. Default: 1 [D: SigLIP 2]."}
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest picture area; smaller ones grow."})
    max_pixels: dict | str | None = field(
        default=None,
        metadata={
            "help": "Largest picture area, or a list [{until, max_pixels}, ...] (JSON) over the training. Default: "
            "336² for the first 80 percent, then 448² [P]."
        },
    )
    attn_implementation: dict | str | None = field(
        default=None, metadata={"help": "One name for both, or one for vision_config and one for text_config (JSON)."}
    )

    def __post_init__(self) -> None:
        self.vision_config = parse_config(self.vision_config, "vision_config", FineViTConfig, OF_STAGE_ONE)
        decided = {"max_position_embeddings": "the recipe's text_length"}
        self.text_config = parse_config(self.text_config, "text_config", Siglip2TextConfig, decided)
        self.max_pixels = parse_json(self.max_pixels, "max_pixels")
        self.attn_implementation = parse_attention(self.attn_implementation)
        self._check_sources()
        self._check_effects()
        if self.position_stretch not in (None, *STRETCHES):
            raise ValueError(f"position_stretch is {self.position_stretch!r}; expected {' or '.join(STRETCHES)}")
        self.budgets  # noqa: B018 - raises

    def _check_sources(self) -> None:
        missing = [name for name in ("vision", "text") if not getattr(self, name)]
        if self.model and (len(missing) < 2 or self.size):
            raise ValueError("`model` holds both towers: leave out `vision`, `text` and `size`, or leave out `model`")
        if not self.model and missing and not self.size:
            raise ValueError(
                f"no `{missing[0]}` is given: name a folder or Hub id, or a `size` to make it from scratch, or a "
                "whole `model`; recipes that ship: `finevit recipes`"
            )
        if self.size and not missing:
            raise ValueError("size would have no effect beside `vision` and `text`; leave it out")

    def _check_effects(self) -> None:
        """Refuses options of what does not start from scratch, or does not start anew."""
        new_vision, new_text = (bool(self.size) and not getattr(self, name) for name in ("vision", "text"))
        needs = {"vision_config": new_vision, "text_config": new_text, "vocab_size": new_text}
        needs |= {"position_stretch": bool(self.text)}
        needs |= dict.fromkeys(("text_length", "num_pooling_queries", "text_projection"), not self.model)
        for name, is_used in needs.items():
            if getattr(self, name) and not is_used:
                raise ValueError(
                    f"{name} would have no effect here: what it is about comes from a folder; leave it out"
                )

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The picture sizes of the run, in order.

        Raises:
            ValueError: `max_pixels` is neither an area nor a list of areas up to 1.
        """
        given: Any = self.max_pixels
        if given is None:
            return PAPERS_BUDGETS
        parts = [{"until": 1.0, "max_pixels": given}] if isinstance(given, int) else given
        try:
            budgets = tuple(Budget(float(part["until"]), int(part["max_pixels"])) for part in parts)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(_BUDGETS.format(given)) from error
        untils = [budget.until for budget in budgets]
        if not untils or untils != sorted(set(untils)) or untils[0] <= 0 or untils[-1] != 1:
            raise ValueError(_BUDGETS.format(given))
        return budgets


_BUDGETS = (
    "max_pixels is {!r}; expected an area in pixels, or a list such as [{{until: 0.8, max_pixels: 112896}}, {{until: "
    "1.0, max_pixels: 200704}}] whose `until` grow to 1"
)


@dataclass
class PairArguments(SourceArguments):
    """Which records are trained on, and which of their captions."""

    captions: dict | str | None = field(
        default=None,
        metadata={"help": f"Weights of the kinds of captions (JSON). Default: {DEFAULT_SHARES}."},
    )

    max_regions: int = field(
        default=4, metadata={"help": "Most regions of a picture that the term of region_weight sees."}
    )

    def __post_init__(self) -> None:
        self.captions = parse_json(self.captions, "captions")
        super().__post_init__()
        check_shares(self.shares)
        if self.max_regions < 1:
            raise ValueError(f"max_regions is {self.max_regions}; expected regions >= 1, or region_weight: 0")

    @property
    def shares(self) -> dict[str, float]:
        """Of the kinds of captions, see `choose_caption`."""
        return dict(DEFAULT_SHARES) if self.captions is None else cast(Any, self.captions)


@dataclass
class ContrastiveTrainingArguments(FineViTTrainingArguments):
    """TrainingArguments of stage II; `per_device_train_batch_size` counts pairs, all of which are one step.

    The rates are Seed-ViT's, the weight decay SigLIP's [D].
    """

    per_device_train_batch_size: int = field(default=128, metadata={"help": "Pairs of a step on one device."})
    cache_pairs: int | None = field(
        default=None,
        metadata={
            "help": "Pairs whose activations are held at a time: gradient caching, for steps larger than memory. "
            "Default: all."
        },
    )
    loss_chunk_size: int = field(default=2048, metadata={"help": "Side of a tile of the matrix of all pairs."})
    text_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the text tower."})
    logit_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the scale and bias; a short run needs a higher one."}
    )
    text_frozen_share: float = field(
        default=0.05,
        metadata={"help": "Share of the training in which the text tower does not learn yet [P; D: 5 percent]."},
    )
    region_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the sigmoid loss of regions and their captions, beside that of pictures."},
    )
    output_dir: str = field(  # ty: ignore[incompatible-mutable-override]
        default="outputs/contrastive", metadata={"help": "Where everything is written."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate [D: Seed-ViT]."})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW's weight decay; not on norms and biases [D]."})

    def __post_init__(self) -> None:
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps would make each micro-batch a contrast of its own: give the pairs of a "
                "step by per_device_train_batch_size, and cache_pairs where they need too much memory"
            )
        if not 0 <= self.text_frozen_share <= 1:
            raise ValueError(
                f"text_frozen_share is {self.text_frozen_share}; expected a share of the training, 0 to 1"
            )
        if not 0 <= self.region_weight < float("inf"):
            raise ValueError(f"region_weight is {self.region_weight}; expected a finite number >= 0")
        for name in ("cache_pairs", "loss_chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a number of pairs >= 1")
        if self.cache_pairs is not None and self.cache_pairs >= self.per_device_train_batch_size:
            raise ValueError(
                f"cache_pairs: {self.cache_pairs} would have no effect: a step has {self.per_device_train_batch_size} "
                "pairs on a device (per_device_train_batch_size), all of which would be held; give fewer, or leave it "
                "out"
            )
        super().__post_init__()

    @property
    def row_capacity(self) -> int:
        """A row is a pair."""
        return 1


CONTRASTIVE_PARTS = (DualModelArguments, PairArguments, ContrastiveTrainingArguments)
