"""The keys of a recipe for supervised fine-tuning: the model and its parts, what is asked, and how it learns."""

from dataclasses import dataclass, field
from typing import Any, cast

from transformers import CONFIG_MAPPING
from trl import SFTConfig

from finecap.nearest import did_you_mean
from finecap.tasks.mixture import DEFAULT_MIXTURE, Stages, named_mixture
from finecap.tasks.wording import ONE, load_wordings
from finevit_training.arguments import (
    OF_STAGE_ONE,
    LoopArguments,
    SourceArguments,
    parse_attention,
    parse_config,
    parse_json,
)
from modeling_finevit import FineViTConfig


@dataclass
class ModelArguments:
    """Where the model comes from and which parts of it are trained.

    Give one of `model` (a FineViT-VL), `llm` beside `vision`, or `size` (from scratch, but for a tower that `vision`
    gives). `model`, `vision`, `llm` and `projector` are folders; the first three may be ids of the Hub.
    """

    model: str | None = field(default=None, metadata={"help": "FineViT-VL to go on from: a folder or a Hub id."})
    vision: str | None = field(
        default=None,
        metadata={"help": "FineViT for the vision tower, or any stage's model that holds one: a folder or a Hub id."},
    )
    llm: str | None = field(default=None, metadata={"help": "Causal LM with its tokenizer: a folder or a Hub id."})
    projector: str | None = field(
        default=None,
        metadata={"help": "Folder with the projector.safetensors that a conversion wrote; else it starts random."},
    )
    size: str | None = field(
        default=None, metadata={"help": "Size of what is made from scratch, tower and LM or the LM: nano ... full."}
    )
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
        self.vision_config = parse_config(self.vision_config, "vision_config", FineViTConfig, OF_STAGE_ONE)
        self.text_config = parse_json(self.text_config, "text_config")
        kind = self.text_config.get("model_type", "qwen3") if isinstance(self.text_config, dict) else "qwen3"
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"text_config is of an unknown model_type {kind!r}{did_you_mean(kind, CONFIG_MAPPING)}")
        self.text_config = parse_config(self.text_config, "text_config", CONFIG_MAPPING[kind], {})
        self.attn_implementation = parse_attention(self.attn_implementation)
        alone = sum(map(bool, (self.model, self.llm, self.size))) == 1
        if not alone or (self.llm and not self.vision) or (self.vision and self.model):
            raise ValueError(
                "give exactly one of `model` (a FineViT-VL), `vision` with `llm` or `size` (from scratch, but for the "
                "tower where `vision` is beside it); "
                f"got model {self.model}, vision {self.vision}, llm {self.llm}, size {self.size}; "
                "recipes that ship: `finevit recipes`"
            )
        if self.projector and not self.vision:
            raise ValueError("`projector` goes with `vision` and `llm`; a `model` has a projector of its own")
        scratch = ("vision_config", "text_config", "vocab_size", "prompt_tokens")
        if not self.size and (idle := [name for name in scratch if getattr(self, name)]):
            raise ValueError(f"{idle[0]} would have no effect without `size`: only a model from scratch is made by it")
        if self.vision and self.vision_config:
            raise ValueError("vision_config would have no effect beside `vision`, whose tower is made already")
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
class DataArguments(SourceArguments):
    """Which records are trained on and what is asked about them."""

    plan: str | None = field(
        default=None,
        metadata={"help": "Folder that `finevit data pack` wrote for this data: lengths are read, not measured."},
    )
    mixture: dict | str | None = field(
        default=None,
        metadata={
            "help": "Turns per task, a curriculum [{until, mixture}, ...] (JSON), or the name of one: paper.",
        },
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

    def __post_init__(self) -> None:
        if not isinstance(self.mixture, str) or self.mixture.startswith(("{", "[")):
            self.mixture = parse_json(self.mixture, "mixture")
        if self.mixture is None:
            self.mixture = dict(DEFAULT_MIXTURE)
        super().__post_init__()
        if self.max_turns is not None and self.max_turns < 1:
            raise ValueError(f"max_turns is {self.max_turns}; expected turns >= 1, or leave it out")
        self.mixture = cast(Any, named_mixture(self.mixture))
        load_wordings(self.wordings)

    @property
    def stages(self) -> Stages:
        """The mixture, or the curriculum of mixtures, as `finecap.tasks.mixture.mixture_at` takes it."""
        return cast(Stages, self.mixture)


@dataclass
class FineViTSFTConfig(LoopArguments, SFTConfig):  # ty: ignore[incompatible-attribute-override]
    """TRL's SFTConfig with what FineViT-VL adds, and other defaults where TRL's do not fit pictures.

    `learning_rate` is the language model's; the other two default to it. `per_device_train_batch_size` counts rows of
    `max_length` tokens. AdamW's betas and the weight decay are openPangu-VL's and LLaVA-OneVision-1.5's.
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
    max_length: int | None = field(
        default=4096, metadata={"help": "Tokens of a row, which several samples share; turns beyond it are left out."}
    )
    output_dir: str = field(  # ty: ignore[incompatible-mutable-override]
        default="outputs/vl_sft", metadata={"help": "Where everything is written."}
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay; not on norms and biases."})

    def __post_init__(self) -> None:
        if self.max_length is None:
            raise ValueError("max_length is null; expected the tokens of a row, such as 4096, which samples share")
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__post_init__()

    @property
    def row_capacity(self) -> int:
        """Tokens of a row."""
        return int(self.max_length or 0)


SFT_PARTS = (ModelArguments, DataArguments, FineViTSFTConfig)
