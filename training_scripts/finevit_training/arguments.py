"""The keys of a recipe that every stage has: on which data, and how the loop goes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, TrainingArguments

from finecap.nearest import did_you_mean
from finevit_training.compat import cpu_has_bf16
from finevit_training.hardware import parse_hardware
from finevit_training.loop.stops import REMEMBERED


@dataclass
class SourceArguments:
    """Which data is trained on, and on which the loss is measured."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources: paths, globs, URLs, dataset names; or mappings (JSON) with path or name, weight, split, "
            "columns. A weight of 2.5 reads the source two and a half times an epoch.",
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the sources."})
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
    max_bad_share: float = field(
        default=0.5, metadata={"help": "Stop when more than this share of the records read is broken."}
    )

    def __post_init__(self) -> None:
        self.data = [parse_json(one, "data", plain_text=True) for one in self.data]
        self.eval_data = [parse_json(one, "eval_data", plain_text=True) for one in self.eval_data]
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; expected a share of the records, 0 to 1")
        if not self.data:
            raise ValueError("`data` is empty; expected at least one source, e.g. --data outputs/corpus")
        if self.eval_records is not None and self.eval_records < 1:
            raise ValueError(f"eval_records is {self.eval_records}; expected records >= 1, or leave it out")
        for one in self.eval_data:
            if isinstance(one, Mapping) and "weight" in one:
                raise ValueError(f"eval_data: the weight of {place_of(one)} has no effect, rows are measured once")
        self._refuse_measuring_on_what_is_trained_on()

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
    def evaluated_split(self) -> str:
        """The split that the loss is measured on. Of a source whose names say no split, everything is "train"."""
        return self.eval_split or ("train" if self.eval_data else "validation")


@dataclass
class LoopArguments:
    """What every stage adds to the Trainer's arguments, and other defaults where those do not fit pictures.

    It stands in front of TrainingArguments or of TRL's SFTConfig. An instance holds what this machine makes of a
    recipe; what was asked for is in `Recipe.asked`.
    """

    max_minutes: float | None = field(
        default=None, metadata={"help": "Wall-clock budget of the training loop; the schedule follows the clock."}
    )
    save_minutes: float | None = field(
        default=None, metadata={"help": "Minutes of training between two checkpoints, beside save_strategy's."}
    )
    on_bad_loss: str = field(
        default="stop",
        metadata={
            "help": "What a loss does that is no number or, with spike_factor, leaps up: `stop` ends the run, `skip` "
            "leaves the step's weights as they are. The ids of the batches are kept either way.",
            "choices": ["stop", "skip"],
        },
    )
    spike_factor: float | None = field(
        default=None,
        metadata={"help": f"A loss above so many times the median of the last {REMEMBERED} is a bad one."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of an average of the encoder's weights over the steps, such as 0.9999; the average is "
            "saved in the folder `ema`."
        },
    )
    compile_blocks: str = field(
        default="false",
        metadata={
            "help": "Compile the encoder's layers, each whole: true, false, or auto (on CUDA).",
            "choices": ["true", "false", "auto"],
        },
    )
    dry_run: str | None = field(
        default=None,
        metadata={
            "help": "Trains nothing and says what the run takes on devices such as 8xH100: parameters, FLOPs, memory, "
            "steps, hours.",
            "nargs": "?",
            "const": "H100",
        },
    )
    cpu_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a process. Default: its share of the cores it may use."}
    )
    bf16: str | None = field(
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
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "activation_checkpointing's old name."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false: the loader reads records."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - the argument parser takes the first of the union
        default="none", metadata={"help": "Trackers, see TrainingArguments."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Steps between two printed lines."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "One printed line instead of a bar."})
    save_strategy: str = field(default="no", metadata={"help": "When checkpoints are written, see TrainingArguments."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every batch reaches every weight that is trained."}
    )

    def __post_init__(self) -> None:
        for name in ("max_minutes", "save_minutes", "cpu_threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a finite number > 0, or leave it out")
        if self.spike_factor is not None and not 1 < self.spike_factor < float("inf"):
            raise ValueError(f"spike_factor is {self.spike_factor}; expected a finite number > 1, or leave it out")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; expected a number between 0 and 1, or leave it out")
        if self.dry_run is not None:
            parse_hardware(self.dry_run)
        if self.on_bad_loss not in ("stop", "skip"):
            raise ValueError(f"on_bad_loss is {self.on_bad_loss!r}; expected stop or skip")
        if str(self.compile_blocks).lower() not in ("true", "false", "auto"):
            raise ValueError(f"compile_blocks is {self.compile_blocks!r}; expected true, false or auto")
        trainers: Any = self  # whose fields these are besides
        bf16 = resolve_bf16(self.bf16)
        trainers.bf16 = not trainers.fp16 if bf16 is None else bf16
        # The loss of a step that is left out must not end in the curve; otherwise it ends the run.
        trainers.logging_nan_inf_filter = self.on_bad_loss == "skip"
        trainers.use_cpu = trainers.use_cpu or not torch.accelerator.is_available()
        if trainers.fp16 and trainers.use_cpu and self.dry_run is None:
            raise ValueError("fp16: true would have no effect on a CPU, which computes in float32 then; use bf16")
        cast(Any, super()).__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds, such as the training_args.bin in every checkpoint: all but the token."""
        return {**vars(self), "hub_token": None}

    @property
    def compiles_blocks(self) -> bool:
        """Whether the encoder's layers are compiled here."""
        asked = str(self.compile_blocks).lower()
        return torch.cuda.is_available() if asked == "auto" else asked == "true"

    @property
    def row_capacity(self) -> int:
        """How much a row of the loader holds, in the unit of the stage's drafts, see `Draft.__len__`."""
        raise NotImplementedError


@dataclass
class FineViTTrainingArguments(LoopArguments, TrainingArguments):  # ty: ignore[incompatible-attribute-override]
    """TrainingArguments of a stage without a language model."""


def place_of(spec: Any) -> str:
    """Where a source of a recipe is: a path, glob or URL, or the name of a dataset."""
    return str(spec.get("path") or spec.get("name")) if isinstance(spec, Mapping) else str(spec)


def resolve_bf16(asked: str | bool | None) -> bool | None:
    """Whether to train in bfloat16 here, for what a recipe says; None if it says nothing.

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


def parse_json(value: Any, name: str, plain_text: bool = False) -> Any:
    """A value that is JSON on the command line, and may be a mapping or list already in a recipe's file.

    Args:
        plain_text: text that does not begin as a mapping stays as it is.

    Raises:
        ValueError: it is no JSON.
    """
    if not isinstance(value, str):
        return value
    if plain_text and not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be JSON on the command line, got {value!r}: {error}") from error


# Fields of a FineViTConfig -> what decides them.
OF_STAGE_ONE = {
    "loss_on": "stage I's key loss_on",
    "target_norm": "stage I's key target_norm",
    "teacher_hidden_size": "stage I's teacher",
}


def parse_config(
    value: Any, name: str, kind: type[PreTrainedConfig], decided: Mapping[str, str]
) -> dict[str, Any] | None:
    """Fields of the configuration of a model from scratch, as a mapping or JSON.

    Args:
        kind: of configuration.
        decided: fields that are not to be given here -> what decides them.

    Raises:
        ValueError: it is no mapping, or names a field that the configuration lacks or that would have no effect.
    """
    given = parse_json(value, name)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} is {given!r}; expected a mapping of fields of {kind.__name__} to values")
    for one in decided.keys() & given.keys():
        raise ValueError(f"{one} in {name} would have no effect: {decided[one]} decides it; leave it out")
    # Those of every configuration say how a folder is loaded or used, and nothing about a model from scratch.
    known = {item.name for item in fields(kind)} - {item.name for item in fields(PreTrainedConfig)}
    known |= set(kind.attribute_map)
    own = ("model_type", kind.model_type)
    if unknown := [str(one) for one in given if one not in known and (one, given[one]) != own]:
        raise ValueError(f"unknown fields in {name}: {unknown}; see {kind.__name__}{did_you_mean(unknown, known)}")
    return dict(given)


def parse_attention(value: Any) -> Any:
    """`attn_implementation`: one name for both towers, or a mapping (or JSON) from their configurations to names.

    Raises:
        ValueError: it names other parts of the model.
    """
    parsed, towers = parse_json(value, "attn_implementation", plain_text=True), ("vision_config", "text_config")
    if isinstance(parsed, Mapping) and (unknown := [name for name in parsed if name not in towers]):
        raise ValueError(
            f"attn_implementation names {unknown}; expected {', '.join(towers)}, or one name for both towers"
        )
    return parsed
