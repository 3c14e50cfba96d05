"""How large a ladder is: its pictures, its steps, its questions. Samples are fixed numbers, never minutes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READ_AT = (0.1, 0.25, 0.5, 1.0)
"""Shares of stage II at which its models are measured."""
SAVES = 20
"""Checkpoints of a run of stage II: the least number that has one at each of `READ_AT`."""


@dataclass(frozen=True)
class Size:
    """One size of the ladder.

    Attributes:
        difficulty: of the corpus, see `finecap.corpus.levels`.
        rows, page_rows: rows of the corpus, and of each of the two sets of pages.
        page_sizes: width and height of the pages in pixels, 1:3 to 3:1 and all of about one area.
        steps: optimizer steps of the runs of each script, and of the two on pages ("pages").
        changes: script -> keys of its shipped recipe for nano that are others here; rows are those of all processes.
        processes: most of a training on a CPU; where that is one, two trainings go on at once.
        questions: most questions of an evaluation.
        pool: pairs among which a retrieval searches.
        model: name of the size of what starts from scratch.
        encoder, text_tower, language_model: keys of the recipe for those that start from scratch.
    """

    difficulty: str
    rows: int
    page_rows: int
    page_sizes: tuple[tuple[int, int], ...]
    steps: Mapping[str, int]
    changes: Mapping[str, Mapping[str, Any]]
    processes: int
    questions: int
    pool: int
    model: str
    encoder: Mapping[str, Any]
    text_tower: Mapping[str, Any]
    language_model: Mapping[str, Any]


# 48 to 50 tokens of 28 x 28 pixels; the square is one of 49.
NANO_PAGES = ((112, 336), (140, 280), (196, 196), (280, 140), (336, 112))
# 243 to 256 tokens.
SMALL_PAGES = ((252, 756), (336, 588), (448, 448), (588, 336), (756, 252))
# One thread: two that share cores with other processes wait for each other most of the time.
ONE_THREAD: Mapping[str, Any] = {"cpu_threads": 1}
NANO: Mapping[str, Mapping[str, Any]] = {
    "mim": {"max_patches": 2048, "per_device_train_batch_size": 2, **ONE_THREAD},
    "contrastive": {"per_device_train_batch_size": 128, "text_length": 96, **ONE_THREAD},
    "align": {"per_device_train_batch_size": 4, **ONE_THREAD},
    "vl_sft": {"per_device_train_batch_size": 4, **ONE_THREAD},
}
# What the nano recipes that ship say.
NANO_MODELS: Mapping[str, Any] = {
    "encoder": {"vision_config": {"initializer_range": 0.06}},
    "text_tower": {"vocab_size": 2048},
    "language_model": {"vocab_size": 1024, "prompt_tokens": True, "text_config": {"initializer_range": 0.06}},
}
SHORT: Mapping[str, Any] = {"logging_steps": 1, **ONE_THREAD}
ON_GPU: Mapping[str, Any] = {
    "attn_implementation": {"vision_config": "torch_varlen", "text_config": "torch_varlen"},
    "compile_blocks": "auto",
    "dataloader_num_workers": 12,
    "learning_rate": 6e-4,
}
LANGUAGE_ON_GPU: Mapping[str, Any] = {**ON_GPU, "max_length": 8192}

SIZES = {
    "smoke": Size(
        difficulty="nano",
        rows=800,
        page_rows=120,
        page_sizes=NANO_PAGES,
        steps={"mim": 4, "contrastive": 20, "align": 3, "vl_sft": 3, "pages": 2},
        changes={
            "mim": {"max_patches": 576, "per_device_train_batch_size": 2, **SHORT},
            "contrastive": {"per_device_train_batch_size": 8, "text_length": 96, **SHORT},
            "align": {"per_device_train_batch_size": 2, **SHORT},
            "vl_sft": {"per_device_train_batch_size": 2, **SHORT},
        },
        processes=1,  # more take longer to start than they save
        questions=8,
        pool=24,
        model="nano",
        **NANO_MODELS,
    ),
    "nano": Size(
        difficulty="nano",
        rows=29_000,
        page_rows=6_000,
        page_sizes=NANO_PAGES,
        # About 38,000 pictures, 76,800 pairs, 25,000, 33,000 and 40,000 pictures.
        steps={"mim": 650, "contrastive": 600, "align": 600, "vl_sft": 700, "pages": 1000},
        changes=NANO,
        processes=1,  # two that wait for each other's gradients lose more than two runs beside each other
        questions=1000,
        pool=1200,
        model="nano",
        **NANO_MODELS,
    ),
    "small": Size(
        difficulty="small",
        rows=60_000,
        page_rows=12_000,
        page_sizes=SMALL_PAGES,
        steps={"mim": 600, "contrastive": 400, "align": 400, "vl_sft": 400, "pages": 200},
        changes={
            "mim": {
                **ON_GPU,
                "max_patches": 32_768,
                "per_device_train_batch_size": 2,
                "attn_implementation": "torch_varlen",
            },
            "contrastive": {
                **ON_GPU,
                "attn_implementation": {"vision_config": "torch_varlen", "text_config": "sdpa"},
                "per_device_train_batch_size": 256,
                "text_length": 256,
            },
            "align": {**LANGUAGE_ON_GPU, "per_device_train_batch_size": 5},
            "vl_sft": {**LANGUAGE_ON_GPU, "per_device_train_batch_size": 5},
        },
        processes=2,
        questions=1000,
        pool=1200,
        model="small",
        encoder={},
        text_tower={},
        language_model={"prompt_tokens": True},
    ),
}
