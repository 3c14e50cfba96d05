"""The runs of one seed: what each is trained with, and what it starts from.

A run's recipe is the one that ships for nano, but for what it starts from, what ends it, and what the run or the size
changes. Runs of one kind see the same samples in the same order, because that follows from the seed alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.ladder.sizes import SAVES, Size
from finevit_training.recipe import Parts, read_recipe
from finevit_training.stages.contrastive.arguments import CONTRASTIVE_PARTS
from finevit_training.stages.mim.arguments import MIM_PARTS
from finevit_training.stages.sft.arguments import SFT_PARTS

RECIPES = {"mim": "mim/nano_cpu", "contrastive": "contrastive/nano_cpu", "align": "align/nano_cpu"}
RECIPES |= {"vl_sft": "sft/nano_cpu"}
PARTS: dict[str, Parts] = {"mim": MIM_PARTS, "contrastive": CONTRASTIVE_PARTS, "align": SFT_PARTS, "vl_sft": SFT_PARTS}
# What a shipped recipe says and a run of the ladder says itself.
OWN = ("model", "vision", "size", "vision_config", "text_config", "vocab_size", "prompt_tokens")
OWN += ("num_train_epochs", "max_minutes", "data", "output_dir")
CORPUS, NATIVE_PAGES, SQUARE_PAGES = "corpus", "pages_native", "pages_square"
# A language model from scratch learns to read and to point from dense tasks; questions come when it can.
READ_AND_POINT = {"transcribe": 1, "caption_to_box": 1}
CURRICULUM = [
    {"until": 0.4, "mixture": {"qa": 0, **READ_AND_POINT}},
    {"until": 1.0, "mixture": {"doc": 2, "chart": 2, "grounding": 2, "easyvqa": 2, **READ_AND_POINT}},
]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        script: of `training_scripts`.
        changes: keys of the recipe.
        start: key of the recipe ("vision" or "model") -> the folder that it names: a run, or a folder in one.
        data: which of the ladder's data it is trained and measured on.
        pays_for: a run whose FLOPs it spends on further steps, and a run whose steps cost as much as its own.
    """

    name: str
    script: str
    changes: Mapping[str, Any]
    start: Mapping[str, str] = field(default_factory=dict)
    data: str = CORPUS
    pays_for: tuple[str, str] | None = None

    @property
    def needs(self) -> list[str]:
        """The runs that must be over."""
        return [folder.partition("/")[0] for folder in self.start.values()] + list(self.pays_for or ())


def arms(size: Size) -> dict[str, Run]:
    """The runs by their names, each behind those that it needs."""
    runs = [*_first_stages(size), *_third_stage(size), *_fine_tunings(size), *_pages(size)]
    return {run.name: run for run in runs}


def _first_stages(size: Size) -> list[Run]:
    scratch = {"size": size.model, **size.encoder}

    def masked(name: str, **changes: Any) -> Run:
        return Run(name, "mim", {**scratch, **changes})

    def contrastive(name: str, encoder: str | None, pays_for: tuple[str, str] | None = None, **changes: Any) -> Run:
        made = {"size": size.model, **size.text_tower} if encoder else {**scratch, **size.text_tower}
        saves = {"save_strategy": "steps", "save_steps": 1 / SAVES, "save_total_limit": None}
        start = {"vision": encoder} if encoder else {}
        return Run(name, "contrastive", {**made, **saves, **changes}, start, pays_for=pays_for)

    short_length = int(size.changes["contrastive"]["text_length"]) // 4
    return [
        masked("I"),
        masked("I_paper", mask_ratio=0.75, loss_on="masked"),
        contrastive("II_after_I", "I"),
        contrastive("II", None),
        contrastive("II_equal_flops", None, pays_for=("I", "II")),
        contrastive("II_after_I_paper", "I_paper"),
        contrastive("II_short", "I", captions={"short": 1}),
        contrastive("II_dense", "I", captions={"dense": 1}),
        contrastive("II_few_tokens", "I", text_length=short_length),
    ]


def _third_stage(size: Size) -> list[Run]:
    made, start = {"size": size.model, **size.language_model}, {"vision": "II_after_I"}
    return [Run("III_frozen", "align", {**made, "train_tower": False}, start), Run("III", "align", made, start)]


def _fine_tunings(size: Size) -> list[Run]:
    frozen = {"mixture": CURRICULUM, "train_tower": False}
    from_scratch = {**frozen, "size": size.model, **size.language_model}
    encoders = {"I": "I", "II_after_I": "II_after_I", "II": "II", "III_encoder": "III/encoder"}
    return [
        Run("sft_random", "vl_sft", {**from_scratch, **size.encoder}),
        *(Run(f"sft_{name}", "vl_sft", from_scratch, {"vision": folder}) for name, folder in encoders.items()),
        *(Run(f"sft_{name}", "vl_sft", frozen, {"model": name}) for name in ("III_frozen", "III")),
    ]


def _pages(size: Size) -> list[Run]:
    changes = {"size": size.model, **size.language_model, "mixture": {"doc": 1, "transcribe": 1}}
    data = (NATIVE_PAGES, SQUARE_PAGES)
    return [Run(name, "vl_sft", changes, {"vision": "I"}, data=name) for name in data]


def recipe_of(run: Run, size: Size, folder: Path, data: Path, seed: int, steps: int) -> dict[str, Any]:
    """The whole recipe of a run.

    Args:
        folder: of the seed; a run's own is named after it.
        data: holds the ladder's corpora.
    """
    base = {key: value for key, value in read_recipe(RECIPES[run.script]).items() if key not in OWN}
    recipe = {**base, **size.changes[run.script], **run.changes}
    recipe |= {key: str(folder / place) for key, place in run.start.items()}
    recipe |= {"data": [str(data / run.data)], "output_dir": str(folder / run.name), "max_steps": steps}
    return {key: value for key, value in {**recipe, "seed": seed}.items() if value is not None}


def steps_of(run: Run, size: Size) -> int:
    """Optimizer steps of a run, without those that it spends another one's FLOPs on."""
    return size.steps["pages" if run.data != CORPUS else run.script]


def with_needs(names: list[str], runs: Mapping[str, Run]) -> list[str]:
    """The names with those of all runs that they need, in the order in which they can be trained.

    Raises:
        ValueError: a name is none.
    """
    if unknown := sorted(set(names) - set(runs)):
        raise ValueError(f"unknown runs {', '.join(unknown)}; expected some of {', '.join(runs)}")
    wanted = set(names)
    for name in reversed(list(runs)):  # what a run needs stands before it
        wanted |= set(runs[name].needs) if name in wanted else set()
    return [name for name in runs if name in wanted]
