"""The keys of a recipe: what is trained, on which records, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from trl import SFTConfig

from finecap.tasks.mixture import DEFAULT_MIXTURE, Stages, named_mixture
from finecap.tasks.wording import ONE, load_wordings
from finevit_training.compat import cpu_has_bf16


@dataclass
class ModelArguments:
    """Where the model comes from and which parts of it are trained.

    Give one of `model` (a FineViT-VL), `vision` and `llm`, or `size` and `text_config` (from scratch). `model`,
    `vision`, `llm` and `projector` are folders; the first three may be ids of the Hub.
    """

    model: str | None = field(default=None, metadata={"help": "FineViT-VL to go on from: a folder or a Hub id."})
    vision: str | None = field(default=None, metadata={"help": "FineViT for the vision tower: a folder or a Hub id."})
    llm: str | None = field(default=None, metadata={"help": "Causal LM with its tokenizer: a folder or a Hub id."})
    projector: str | None = field(
        default=None,
        metadata={"help": "Folder with the projector.safetensors that a conversion wrote; else it starts random."},
    )
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
    train_tower: bool | None = field(
        default=None, metadata={"help": "Train the vision tower. Default: yes, but with lora_rank only by lora_tower."}
    )
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
                "give exactly one of `model` (a FineViT-VL), `vision` with `llm` or `size` (from scratch); "
                f"got model {self.model}, vision {self.vision}, llm {self.llm}, size {self.size}; "
                "recipes that ship: `finevit recipes`"
            )
        if self.projector and not self.vision:
            raise ValueError("`projector` goes with `vision` and `llm`; a `model` has a projector of its own")
        scratch = ("vision_config", "text_config", "vocab_size", "prompt_tokens")
        if not self.size and (idle := [name for name in scratch if getattr(self, name)]):
            raise ValueError(f"{idle[0]} would have no effect without `size`: only a model from scratch is made by it")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank is {self.lora_rank}; expected a rank such as 16, or 0 for no adapters")
        self._check_parts()

    def _check_parts(self) -> None:
        if not self.lora_rank and self.lora_tower:
            raise ValueError("lora_tower: true would have no effect without lora_rank; give a rank, such as 16")
        if self.lora_rank and not self.train_llm:
            raise ValueError(
                "lora_rank puts adapters on the language model, which train_llm: false leaves alone; drop one of them"
            )
        if self.lora_rank and self.train_tower is not None and self.train_tower != self.lora_tower:
            raise ValueError(
                f"train_tower: {self.train_tower} contradicts lora_tower: {self.lora_tower}: with lora_rank the tower "
                "is trained by adapters (lora_tower: true) or not at all; leave train_tower out"
            )
        if self.train_tower is None:
            self.train_tower = self.lora_tower if self.lora_rank else True
        if not (self.train_tower or self.train_projector or self.train_llm):
            raise ValueError("nothing to train: one of train_tower, train_projector, train_llm must be true")


@dataclass
class DataArguments:
    """Which records are trained on and what is asked about them."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources: paths, globs, URLs, dataset names; or mappings (JSON) with path or name, weight, split, "
            "columns. A weight of 2.5 reads the source two and a half times an epoch."
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the sources."})
    plan: str | None = field(
        default=None,
        metadata={"help": "Folder that `finevit data pack` wrote for this data: lengths are read, not measured."},
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Sources, as in data, that eval_strategy measures the loss on. Default: those of data."},
    )
    eval_split: str | None = field(
        default=None,
        metadata={"help": "Split that eval_strategy measures the loss on. Default: validation; of eval_data train."},
    )
    eval_records: int | None = field(
        default=None,
        metadata={"help": "About so many rows of the evaluation, drawn once for all runs; all without it."},
    )
    mixture: dict | str | None = field(
        default=None,
        metadata={"help": "Turns per task, a curriculum [{until, mixture}, ...] (JSON), or the name of one: paper."},
    )
    wordings: str = field(
        default=ONE,
        metadata={
            "help": "Of the dense tasks' prompts: one (with which evaluations ask), several (drawn for each turn), or "
            "a YAML file like finecap/tasks/wordings.yaml."
        },
    )
    max_turns: int | None = field(default=None, metadata={"help": "Most turns asked about one picture."})
    isolate_turns: bool = field(default=False, metadata={"help": "Turns see the picture and themselves alone."})
    max_bad_share: float = field(
        default=0.5, metadata={"help": "Stop when more than this share of the records read is broken."}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.mixture, str) or self.mixture.startswith(("{", "[")):
            self.mixture = _parse_json(self.mixture, "mixture")
        self.data = [_parse_json(one, "data", plain_text=True) for one in self.data]
        self.eval_data = [_parse_json(one, "eval_data", plain_text=True) for one in self.eval_data]
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; expected a share of the records, 0 to 1")
        if self.mixture is None:
            self.mixture = dict(DEFAULT_MIXTURE)
        if not self.data:
            raise ValueError("`data` is empty; expected at least one source, e.g. --data outputs/corpus")
        if self.eval_records is not None and self.eval_records < 1:
            raise ValueError(f"eval_records is {self.eval_records}; expected records >= 1, or leave it out")
        if self.max_turns is not None and self.max_turns < 1:
            raise ValueError(f"max_turns is {self.max_turns}; expected turns >= 1, or leave it out")
        self._refuse_measuring_on_what_is_trained_on()
        self.mixture = cast(Any, named_mixture(self.mixture))
        load_wordings(self.wordings)

    def _refuse_measuring_on_what_is_trained_on(self) -> None:
        def named(specs: list[Any], split: str) -> dict[tuple[Path, str], str]:
            splits = [one.get("split", split) if isinstance(one, Mapping) else split for one in specs]
            places = [place_of(one) for one in specs]
            return {(Path(place).absolute(), own): place for place, own in zip(places, splits, strict=True)}

        measured = named(self.eval_data, self.evaluated_split)
        for both in measured.keys() & named(self.data, self.split).keys():
            raise ValueError(
                f"eval_data names {measured[both]!r}, whose split {both[1]!r} is trained on; name other data, or "
                "another eval_split"
            )

    @property
    def stages(self) -> Stages:
        """The mixture, or the curriculum of mixtures, as `finecap.tasks.mixture.mixture_at` takes it."""
        return cast(Stages, self.mixture)

    @property
    def evaluated_split(self) -> str:
        """The split that the loss is measured on. Of a source whose names say no split, everything is "train"."""
        return self.eval_split or ("train" if self.eval_data else "validation")


@dataclass
class FineViTSFTConfig(SFTConfig):
    """TRL's SFTConfig with what FineViT-VL adds, and other defaults where TRL's do not fit pictures.

    `learning_rate` is the language model's; the other two default to it. `per_device_train_batch_size` counts rows of
    `max_length` tokens. AdamW's betas and the weight decay are openPangu-VL's and LLaVA-OneVision-1.5's.
    An instance holds what this machine makes of a recipe; what was asked for is in `Recipe.asked`.
    """

    vision_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the vision tower."})
    projector_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the projector."})
    projector_warmup_steps: int = field(
        default=0,
        metadata={
            "help": "First steps in which the projector alone learns, at its full rate (LLaVA-OneVision-1.5); the "
            "schedule of all parts, warm-up included, begins after them."
        },
    )
    max_minutes: float | None = field(
        default=None, metadata={"help": "Wall-clock budget of the training loop; the schedule follows the clock."}
    )
    save_minutes: float | None = field(
        default=None, metadata={"help": "Minutes of training between two checkpoints, beside save_strategy's."}
    )
    cpu_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a process. Default: its share of the cores it may use."}
    )
    bf16: str | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None,
        metadata={
            "help": "Mixed precision with bfloat16: true, false, or auto (where the machine does it in hardware). "
            "Default: true unless fp16.",
            "nargs": "?",
            "const": "true",
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint folder; `last`: the newest one in output_dir, an error without one; "
            "`last-or-start`: the newest one, or the beginning (for jobs that start themselves again)."
        },
    )
    max_length: int | None = field(
        default=4096, metadata={"help": "Tokens of a row, which several samples share; turns beyond it are left out."}
    )
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
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: a batch without pictures still reaches every vision weight."}
    )

    def __post_init__(self) -> None:
        for name in ("max_minutes", "save_minutes", "cpu_threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a finite number > 0, or leave it out")
        if self.max_length is None:
            raise ValueError("max_length is null; expected the tokens of a row, such as 4096, which samples share")
        self.bf16 = resolve_bf16(self.bf16)  # ty: ignore[invalid-assignment]
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        # A NaN must reach our check, not be averaged away.
        self.logging_nan_inf_filter = False
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds, such as the training_args.bin in every checkpoint: all but the token."""
        return {**vars(self), "hub_token": None}


def place_of(spec: Any) -> str:
    """Where a source of a recipe is: a path, glob or URL, or the name of a dataset."""
    return str(spec.get("path") or spec.get("name")) if isinstance(spec, Mapping) else str(spec)


def resolve_bf16(asked: str | bool | None) -> bool | None:
    """Whether to train in bfloat16 here, for what a recipe says; None leaves it to TRL.

    Raises:
        ValueError: it is neither true, false nor auto.
    """
    if asked is None or isinstance(asked, bool):
        return asked
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if asked.lower() != "auto" and asked.lower() not in known:
        raise ValueError(f"bf16 is {asked!r}; expected true, false or auto")
    return has_bf16() if asked.lower() == "auto" else known[asked.lower()]


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


def _parse_json(value: Any, name: str, plain_text: bool = False) -> Any:
    if not isinstance(value, str):
        return value
    if plain_text and not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be JSON on the command line, got {value!r}: {error}") from error
