"""Options of the Trainer and of TRL that would do nothing here, or something else than they say, and what to use."""

import math
from collections.abc import Mapping
from typing import Any

_BY_RECORD = "batches are made of the rows of `data`"
_OWN_LOADER = "batches come in the order of the run, from workers that are started as PyTorch does"
_PACKED = "samples are packed into rows of max_length tokens in any case"
_OWN_EVALUATION = "`eval_strategy` measures the loss and nothing else"
_MODEL_IS_BUILT = "the model is built from the recipe's model keys"

# Option -> why it has no effect here, and what has.
WITHOUT_EFFECT = {
    "loss_type": "the loss is the cross entropy of the supervised tokens",
    "label_smoothing_factor": "the loss is the cross entropy of the supervised tokens",
    "data_seed": "`seed` decides the order of the records and the questions",
    "dataloader_persistent_workers": "the loader is opened once a run; its workers live as long anyway",
    "dataloader_multiprocessing_context": _OWN_LOADER,
    "dataloader_in_order": _OWN_LOADER,
    "length_column_name": _PACKED,
    "shuffle_dataset": "every epoch is in an order of its own in any case",
    "packing_strategy": _PACKED,
    "liger_kernel_config": "liger knows no FineViT-VL and would change nothing, without a word",
    "use_cache": "training uses no cache",
    "prediction_loss_only": _OWN_EVALUATION,
    "eval_accumulation_steps": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "bf16_full_eval": "the evaluation computes as the training does; use `bf16`",
    "fp16_full_eval": "the evaluation computes as the training does; use `fp16`",
    "include_for_metrics": _OWN_EVALUATION,
    "batch_eval_metrics": _OWN_EVALUATION,
    "dataloader_drop_last": "every batch of the run is full",
    "train_sampling_strategy": _PACKED,
    "auto_find_batch_size": "the order of the records follows from per_device_train_batch_size",
    "packing": _PACKED,
    "eval_packing": _PACKED,
    "padding_free": _PACKED,
    "ignore_data_skip": "a resumed run begins at its position in the data and skips nothing",
    "truncation_mode": "sequences are not cut; turns beyond max_length are left out",
    "pad_to_multiple_of": _PACKED,
    "assistant_only_loss": "the loss is on the assistant's words in any case",
    "completion_only_loss": "the loss is on the assistant's words in any case",
    "dataset_text_field": _BY_RECORD,
    "dataset_num_proc": _BY_RECORD,
    "dataset_kwargs": _BY_RECORD,
    "remove_unused_columns": _BY_RECORD,
    "label_names": _BY_RECORD,
    "chat_template_path": "the chat template is the processor's",
    "model_init_kwargs": _MODEL_IS_BUILT,
    "trust_remote_code": _MODEL_IS_BUILT,
    "use_liger_kernel": "liger knows no FineViT-VL and would change nothing, without a word",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint in any case, on all ranks at the same step",
    "restore_callback_states_from_checkpoint": "the clock is restored in any case; other callbacks have no state",
    "logging_nan_inf_filter": "a loss that is no number ends the run",
    "average_tokens_across_devices": "the loss is the mean over the items of all devices",
    "optim_target_modules": "it is for GaLore's and APOLLO's kind, which cannot follow the learning rates of parts",
    "do_train": "the script trains",
    "do_eval": "`eval_strategy` evaluates",
    "do_predict": "`finevit eval` predicts",
}
# Option -> what it would do instead of what is meant, and what does that.
_OTHERWISE = dict.fromkeys(
    ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "would compile the whole model in pieces: use compile_blocks: true, which compiles the encoder's layers whole",
)
# Option -> the switch that it needs, and the values of the switch under which it has no effect.
_NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "vision_learning_rate": ("train_tower", (False,)),
    "projector_learning_rate": ("train_projector", (False,)),
    "projector_warmup_steps": ("train_projector", (False,)),
    "lora_alpha": ("lora_rank", (None, 0)),
    "max_regions": ("region_weight", (0,)),
    "text_learning_rate": ("text_frozen_share", (1,)),
    "ema_decay": ("train_tower", (False,)),
    **dict.fromkeys(
        (
            *("eval_data", "eval_split", "eval_records", "eval_steps", "eval_delay", "eval_on_start"),
            "per_device_eval_batch_size",
        ),
        ("eval_strategy", ("no",)),
    ),
    "load_best_model_at_end": ("eval_strategy", ("no",)),
    "save_steps": ("save_strategy", ("no",)),
    "logging_steps": ("logging_strategy", ("no",)),
    **dict.fromkeys(
        ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_revision", "hub_always_push"),
        ("push_to_hub", (False,)),
    ),
}
_SWITCHED_ON = {
    "eval_strategy": "add eval_strategy: steps",
    "save_strategy": "add save_strategy: steps, or use save_minutes",
    "logging_strategy": "leave logging_strategy out",
    "push_to_hub": "add push_to_hub: true",
    "lora_rank": "give a rank, such as 16",
}
# Option -> the least value that makes a run; None: anything above 0. All must be finite.
_LEAST: dict[str, int | None] = {
    **dict.fromkeys(("max_steps", "gradient_accumulation_steps", "max_length", "save_total_limit"), 1),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("vocab_size", "min_pixels", "max_pixels", "max_patches"), 1),
    **dict.fromkeys(("text_length", "num_pooling_queries"), 1),
    **dict.fromkeys(("learning_rate", "vision_learning_rate", "projector_learning_rate"), 0),
    **dict.fromkeys(("text_learning_rate", "logit_learning_rate", "adam_epsilon"), 0),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "seed", "dataloader_num_workers"), 0),
    "projector_warmup_steps": 0,
    **dict.fromkeys(("num_train_epochs", "save_steps", "eval_steps", "logging_steps", "lora_alpha"), None),
}
_BETAS = ("adam_beta1", "adam_beta2")
_RATIOS = ("save_steps", "logging_steps", "eval_steps")
_STRATEGIES = ("save_strategy", "logging_strategy", "eval_strategy")


def refuse_options(asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ValueError for the first option of a recipe that makes no run, or would not do what it says.

    Args:
        asked: what the recipe's file and flags say.
        defaults: of all options; asking for the default is no mistake.
    """
    given = {name: value for name, value in asked.items() if value is not None and value != defaults[name]}
    for name, value in given.items():
        if name in _LEAST and isinstance(value, int | float):
            _check_number(name, value, _LEAST[name])
        if name in _BETAS and not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; expected a number from 0 to below 1, or leave it out")
        if name in WITHOUT_EFFECT:
            raise ValueError(f"{name}: {value!r} would have no effect: {WITHOUT_EFFECT[name]}; leave it out")
        if name in _OTHERWISE:
            raise ValueError(f"{name}: {value!r} {_OTHERWISE[name]}")
    for name in _STRATEGIES:
        if str(asked.get(name)) == "epoch":
            raise ValueError(
                f"{name}: epoch would have no effect: the run is one pass over batches of all its epochs; use `steps`"
            )
    if (asked.get("max_steps") or 0) > 0 and asked.get("num_train_epochs") is not None:
        raise ValueError("num_train_epochs would have no effect: max_steps ends the run; leave one of them out")
    if asked.get("max_minutes") is not None:
        _refuse_beside_the_clock(asked)
    for name, (switch, off) in _NEEDS.items():
        state = asked.get(switch, defaults.get(switch))
        if given.get(name) and switch in defaults and (state in off or str(state) in off):
            mend = _SWITCHED_ON.get(switch, "leave one of them out")
            raise ValueError(f"{name} would have no effect with {switch}: {state}; {mend}")


def _check_number(name: str, value: float, least: int | None) -> None:
    if not (value > 0 if least is None else value >= least) or value == math.inf:
        wanted = "above 0" if least is None else f">= {least}"
        raise ValueError(f"{name} is {value}; expected a finite number {wanted}, or leave it out")


def _refuse_beside_the_clock(asked: Mapping[str, Any]) -> None:
    if asked.get("num_train_epochs") is not None:
        raise ValueError("num_train_epochs would have no effect: max_minutes ends the run; leave one of them out")
    if asked.get("projector_warmup_steps"):
        raise ValueError(
            "projector_warmup_steps counts steps, and max_minutes lets the schedule follow the clock: use max_steps "
            "or num_train_epochs, or train the projector alone first (train_tower: false, train_llm: false)"
        )
    for name in _RATIOS:
        if 0 < float(asked.get(name) or 0) < 1:
            raise ValueError(
                f"{name}: {asked[name]} is a share of the run's steps, which max_minutes leaves open; give whole steps"
                + (", or save_minutes" if name == "save_steps" else "")
            )
