"""The keys of a recipe for stage I: the encoder, what is masked and what is regressed, and how it learns.

[P]: fixed by the paper (arXiv 2603.17326), [D]: this project's default.
"""

from dataclasses import dataclass, field
from typing import Any, cast

from finevit_training.arguments import OF_STAGE_ONE, FineViTTrainingArguments, SourceArguments, parse_config
from modeling_finevit import FineViTConfig
from modeling_finevit.pretraining.masks import MASKS

LOSS_ON = ("masked", "all")
TARGET_NORMS = ("none", "layer_norm", "l2")


@dataclass
class MaskedModelArguments:
    """The encoder, what is masked, and what it regresses there: a teacher's features, or the pixels without one.

    Give one of `model` (a folder or Hub id of a FineViT, pre-trained or not) and `size` (from scratch).
    """

    model: str | None = field(default=None, metadata={"help": "FineViT to go on from: a folder or a Hub id."})
    size: str | None = field(default=None, metadata={"help": "FineViT size from scratch: nano ... full."})
    vision_config: dict | str | None = field(default=None, metadata={"help": "FineViTConfig fields over `size`."})
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest picture area; smaller ones grow."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest picture area; larger ones are reduced."})
    attn_implementation: str | None = field(default=None, metadata={"help": "The encoder's attention."})
    mask_ratio: float = field(default=0.75, metadata={"help": "Share of each picture's patches that is masked [P]."})
    mask: str = field(default="random", metadata={"help": f"How masks are drawn: {' or '.join(MASKS)} [D: Seed-ViT]."})
    loss_on: str = field(default="masked", metadata={"help": "Patches whose errors count: masked [P] or all."})
    target_norm: str | None = field(
        default=None,
        metadata={
            "help": "What is done to the targets of a patch: none, layer_norm or l2. Default: none with a teacher "
            "[P: L2], layer_norm without [MAE]."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Model whose patch features are regressed: a folder or Hub id that AutoModel loads [P: DINOv3]. "
            "Default: none, the pixels are."
        },
    )
    teacher_cache: str | None = field(default=None, metadata={"help": "Folder in which the teacher's features stay."})

    @property
    def scratch_fields(self) -> dict[str, Any]:
        """FineViTConfig fields of a model from scratch."""
        return cast(dict, self.vision_config) or {}

    def __post_init__(self) -> None:
        self.vision_config = parse_config(self.vision_config, "vision_config", FineViTConfig, OF_STAGE_ONE)
        if bool(self.model) == bool(self.size):
            raise ValueError(
                f"give exactly one of `model` (a FineViT) and `size` (from scratch); got model {self.model}, "
                f"size {self.size}; recipes that ship: `finevit recipes`"
            )
        if self.vision_config and not self.size:
            raise ValueError(
                "vision_config would have no effect without `size`: only a model from scratch is made by it"
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; expected a share of the patches between 0 and 1")
        if self.teacher_cache and not self.teacher:
            raise ValueError("teacher_cache would have no effect without `teacher`; leave it out")
        if self.target_norm is None:
            self.target_norm = "none" if self.teacher else "layer_norm"
        for name, known in (("mask", MASKS), ("loss_on", LOSS_ON), ("target_norm", TARGET_NORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")


@dataclass
class MaskedTrainingArguments(FineViTTrainingArguments):
    """TrainingArguments with rows of patches; `per_device_train_batch_size` counts such rows.

    The peak rate is the paper's; the optimiser is EVA-02's [D].
    """

    max_patches: int = field(
        default=5184,  # a picture of 1008 x 1008, the image processor's largest
        metadata={"help": "Patches of a row, which several pictures share; a sample that has more is left out."},
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Rows of a micro-batch on one device."})
    output_dir: str = field(  # ty: ignore[incompatible-mutable-override]
        default="outputs/mim", metadata={"help": "Where everything is written."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate [P]."})
    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second beta [D: EVA-02]."})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's weight decay; not on norms and biases [D]."})

    @property
    def row_capacity(self) -> int:
        """Patches of a row."""
        return self.max_patches


MIM_PARTS = (MaskedModelArguments, SourceArguments, MaskedTrainingArguments)
