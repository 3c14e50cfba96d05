"""The parts of a model (tower, projector, language model): whose a parameter is, and whether and how it learns."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peft import LoraConfig, PeftModel
from torch import nn

# Part -> the modules of a FineViT-VL that it is made of. A path may name a parameter of the model as well.
VL_PARTS: dict[str, tuple[str, ...]] = {
    "tower": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector",),
    "llm": ("model.language_model", "lm_head"),
}
# Every linear layer of the language model, after QLoRA (Dettmers et al. 2023), section 4.
_LLM_LORA = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
_ALL_LORA = r".*(language_model|vision_tower)\..*\.(q|k|v|o|gate|up|down)_proj"

Parts = dict[str, dict[str, nn.Parameter]]


def split_parameters(model: nn.Module, parts: Mapping[str, Iterable[str]] = VL_PARTS) -> Parts:
    """The parameters of each part by their name in `model`, which may be wrapped by PEFT, DDP or FSDP.

    Raises:
        ValueError: the model lacks a module of `parts`, or has a parameter that belongs to none of them.
    """
    inner = without_wrappers(model)
    owner = {
        id(parameter): part for part, paths in parts.items() for path in paths
        for parameter in _parameters(inner, path)
    }  # fmt: skip
    split: Parts = {part: {} for part in parts}
    for name, parameter in model.named_parameters():
        if id(parameter) not in owner:
            raise ValueError(f"the parameter {name} belongs to none of the parts {list(parts)}; add its module to one")
        split[owner[id(parameter)]][name] = parameter
    return split


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model inside of PEFT's and DDP's."""
    if isinstance(model, PeftModel):
        return model.get_base_model()  # PEFT puts its layers inside this one
    inner = getattr(model, "module", None)  # DDP's
    return without_wrappers(inner) if isinstance(inner, nn.Module) else model


def _parameters(model: nn.Module, path: str) -> list[nn.Parameter]:
    if path in dict(model.named_parameters(recurse=False)):
        return [model.get_parameter(path)]
    try:
        return list(model.get_submodule(path).parameters())
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__} has no module {path}, which is a part that is trained") from error


def freeze(model: nn.Module, trained: Mapping[str, bool], parts: Mapping[str, Iterable[str]] = VL_PARTS) -> None:
    """Takes the parts that are not trained out of the graph, and puts the others into it."""
    for part, parameters in split_parameters(model, parts).items():
        for parameter in parameters.values():
            parameter.requires_grad_(trained[part])


def lora_config(
    rank: int, alpha: int, tower: bool, projector: bool, new_tokens: list[int], tied_head: bool
) -> LoraConfig:
    """LoRA on the language model, and what an adapter cannot give.

    Args:
        rank, alpha: LoRA's; its scale is alpha / rank.
        tower: adapters on the vision tower's layers, too.
        projector: the projector is trained in full.
        new_tokens: ids that the language model has not seen, such as the end of a turn; their rows of the embedding
            (and of an untied head) are trained, without which the model could neither write nor read them.
        tied_head: the head is the embedding.
    """
    tables = ["embed_tokens"] if tied_head else ["embed_tokens", "lm_head"]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_ALL_LORA if tower else _LLM_LORA,
        modules_to_save=["multi_modal_projector"] if projector else None,
        trainable_token_indices=dict.fromkeys(tables, new_tokens) if new_tokens else None,
        task_type="CAUSAL_LM",
    )


def optimizer_groups(
    model: nn.Module,
    parts: Mapping[str, Iterable[str]],
    rates: Mapping[str, float],
    weight_decay: float,
    is_decayed: Callable[[str], bool],
) -> list[dict[str, Any]]:
    """The optimizer's groups, one for each part with and one without weight decay.

    Args:
        parts: see `split_parameters`.
        rates: the learning rate of each part.
        is_decayed: told a parameter's name, says whether its kind decays; vectors never do.
    """
    groups = []
    for part, parameters in split_parameters(model, parts).items():
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        decayed = {name for name, p in trained.items() if p.ndim > 1 and is_decayed(name)}
        for names, decay in ((decayed, weight_decay), (set(trained) - decayed, 0.0)):
            if names:
                members = [p for name, p in trained.items() if name in names]
                groups.append({"params": members, "lr": rates[part], "weight_decay": decay, "name": part})
    return groups
