"""Recipes: everything that decides a training run, read from one YAML file and command-line flags.

A recipe is a flat mapping; its keys are the fields of `ModelArguments`, `DataArguments` and `FineViTSFTConfig` (TRL's
`SFTConfig`, so every option of the Trainer is one). Flags win over the file.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import HfArgumentParser
from trl import SFTConfig

from finecap.recipe_files import find_recipe
from finecap.tasks.mixture import DEFAULT_MIXTURE, check_mixture, mixture_at


@dataclass
class ModelArguments:
    """Where the model comes from and which parts of it are trained.

    Give one of `model` (a FineViT-VL folder), `vision` and `llm` (two folders), or `size` and `text_config` (from
    scratch).
    """

    model: str | None = field(default=None, metadata={"help": "FineViT-VL folder to go on from."})
    vision: str | None = field(default=None, metadata={"help": "FineViT folder for the vision tower."})
    llm: str | None = field(default=None, metadata={"help": "Causal LM folder with its tokenizer."})
    size: str | None = field(default=None, metadata={"help": "FineViT size of a tower from scratch: nano ... full."})
    vision_config: dict | str | None = field(default=None, metadata={"help": "FineViTConfig fields over `size`."})
    text_config: dict | str | None = field(default=None, metadata={"help": "Config fields of an LM from scratch."})
    vocab_size: int | None = field(default=None, metadata={"help": "Merge ranks kept of Qwen's tokenizer."})
    prompt_tokens: bool = field(
        default=False,
        metadata={"help": "From scratch: one token for each fixed prompt sentence."},
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest picture area; smaller ones grow."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest picture area; larger ones are reduced."})
    attn_implementation: dict | str | None = field(
        default=None, metadata={"help": "One name for both, or one for vision_config and one for text_config (JSON)."}
    )
    train_tower: bool = field(default=True, metadata={"help": "Train the vision tower."})
    train_projector: bool = field(default=True, metadata={"help": "Train the projector."})
    train_llm: bool = field(default=True, metadata={"help": "Train the language model (its LoRA with lora_rank)."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA adapters on the language model; 0 for none."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA's scale is lora_alpha / lora_rank."})
    lora_tower: bool = field(default=False, metadata={"help": "LoRA on the vision tower's layers as well."})

    def __post_init__(self) -> None:
        for name in ("vision_config", "text_config", "attn_implementation"):
            setattr(self, name, _parse_json(getattr(self, name), name, plain_text=name == "attn_implementation"))
        sources = [bool(self.model), bool(self.vision or self.llm), bool(self.size)]
        if sum(sources) != 1 or bool(self.vision) != bool(self.llm):
            raise ValueError(
                "give exactly one of `model` (a FineViT-VL folder), `vision` with `llm` (two folders) or `size` "
                f"(from scratch); got {self.model=}, {self.vision=}, {self.llm=}, {self.size=}"
            )
        if not (self.train_tower or self.train_projector or self.train_llm):
            raise ValueError("nothing to train: one of train_tower, train_projector, train_llm must be true")


@dataclass
class DataArguments:
    """Which records are trained on and what is asked about them."""

    data: list[str] = field(default_factory=list, metadata={"help": "FineCap corpora: folders in the Hub's layout."})
    split: str = field(default="train", metadata={"help": "Split of the corpora."})
    mixture: dict | str | None = field(
        default=None, metadata={"help": "Turns per task, or a curriculum [{until, mixture}, ...] (JSON)."}
    )
    max_turns: int | None = field(default=None, metadata={"help": "Most turns asked about one picture."})
    pack_samples: bool = field(default=False, metadata={"help": "One row per device batch instead of padding."})
    isolate_turns: bool = field(default=False, metadata={"help": "Turns see the picture and themselves alone."})
    group_by_length: bool = field(
        default=False, metadata={"help": "Put records of like length, hence of one kind, into a batch: less padding."}
    )

    max_bad_share: float = field(
        default=0.5, metadata={"help": "Stop when more than this share of the records read is broken."}
    )

    def __post_init__(self) -> None:
        self.mixture = dict(DEFAULT_MIXTURE) if self.mixture is None else _parse_json(self.mixture, "mixture")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; expected a share of the records, 0 to 1")
        if not self.data:
            raise ValueError("`data` is empty; expected at least one corpus folder, e.g. --data outputs/corpus")
        stages = self.stages
        for stage in [{"mixture": stages}] if isinstance(stages, Mapping) else stages:
            check_mixture(stage["mixture"])
        mixture_at(stages, 0.0)

    @property
    def stages(self) -> Any:
        """The mixture, or the curriculum of mixtures, as `finecap.tasks.mixture.mixture_at` takes it."""
        return self.mixture


@dataclass
class FineViTSFTConfig(SFTConfig):
    """TRL's SFTConfig with what FineViT-VL adds, and other defaults where TRL's do not fit pictures.

    `learning_rate` is the language model's; the other two default to it. `max_length` is unset because cutting a
    sequence would cut image tokens. AdamW's betas and the weight decay are openPangu-VL's and LLaVA-OneVision-1.5's.
    """

    vision_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the vision tower."})
    projector_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the projector."})
    projector_warmup_steps: int = field(
        default=0, metadata={"help": "First steps in which the projector alone learns (LLaVA-OneVision-1.5)."}
    )
    max_minutes: float | None = field(
        default=None, metadata={"help": "Wall-clock budget of the training loop; the schedule follows the clock."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Longest sequence; further turns are left out."})
    output_dir: str = field(  # ty: ignore[incompatible-mutable-override]
        default="outputs/vl_sft", metadata={"help": "Where everything is written."}
    )
    gradient_checkpointing: bool | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "activation_checkpointing's old name."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false: the collator reads records."})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay; not on norms and biases."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - the argument parser takes the first of the union
        default="none", metadata={"help": "Trackers, see TrainingArguments."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Steps between two printed lines."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "One printed line instead of a bar."})
    save_strategy: str = field(default="no", metadata={"help": "When checkpoints are written, see TrainingArguments."})

    def __post_init__(self) -> None:
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes is {self.max_minutes}; expected minutes > 0, or leave it out")
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        # A NaN must reach our check, not be averaged away.
        self.logging_nan_inf_filter = False
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()


class Recipe(NamedTuple):
    """A parsed recipe."""

    model: ModelArguments
    data: DataArguments
    training: FineViTSFTConfig


def parse_recipe(argv: Sequence[str]) -> Recipe:
    """Reads `--recipe FILE.yaml` and flags.

    Raises:
        ValueError: an unknown key, in the file or among the flags, or a value that does not fit.
    """
    argv = list(argv)
    values: dict[str, Any] = {}
    if "--recipe" in argv:
        at = argv.index("--recipe")
        if at + 1 == len(argv):
            raise ValueError("--recipe needs the path of a YAML file")
        values = read_recipe(argv[at + 1])
        del argv[at : at + 2]
    parts: Any = [ModelArguments, DataArguments, FineViTSFTConfig]
    parser = HfArgumentParser(parts, allow_abbrev=False)
    known = {action.dest for action in parser._actions}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown keys in the recipe: {unknown}; see `--help` for the keys there are")
    if values.get("bf16") == "auto":
        values["bf16"] = has_bf16()
    for at, flag in enumerate(argv[:-1]):
        if flag == "--bf16" and argv[at + 1] == "auto":
            argv[at + 1] = str(has_bf16())
    parser.set_defaults(**values)
    parsed: Any = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    model, data, training, rest = parsed
    if rest:
        raise ValueError(f"unknown flags: {rest}; see `--help` for the flags there are")
    return Recipe(model, data, training)


def read_recipe(given: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, given by its path or by the name of a shipped one.

    Raises:
        ValueError: there is no such recipe, or it is no YAML mapping.
    """
    path = find_recipe(given, "finevit_training")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold a mapping of keys to values, got {type(values).__name__}")
    return values


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a flat mapping that `parse_recipe` reads back: every field that is not at its default."""
    values: dict[str, Any] = {}
    for part in recipe:
        as_dict = part.to_dict() if isinstance(part, FineViTSFTConfig) else dataclasses.asdict(part)
        for item in dataclasses.fields(part):
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if item.init and item.name in as_dict and as_dict[item.name] != default:
                values[item.name] = as_dict[item.name]
    for derived in ("dataset_kwargs", "logging_nan_inf_filter", "accelerator_config"):
        values.pop(derived, None)
    # TrainingArguments.to_dict writes a placeholder for every field of this name, secret or not.
    return {name: value for name, value in values.items() if not name.endswith("_token")}


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _parse_json(value: Any, name: str, plain_text: bool = False) -> Any:
    if not isinstance(value, str):
        return value
    if plain_text and not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be JSON on the command line, got {value!r}: {error}") from error
