"""Parts go by module; what belongs to none is an error. New tokens learn under LoRA."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from finevit_training.loop.parts import freeze, lora_config, split_parameters
from finevit_vl import FineViTVLConfig, FineViTVLForConditionalGeneration


def tiny(**fields):
    text = {"num_hidden_layers": 1, **fields}
    tied = fields.get("tie_word_embeddings", True)
    config = FineViTVLConfig.from_size(
        "nano", text_config=text, vision_config={"num_hidden_layers": 1}, tie_word_embeddings=tied
    )
    return FineViTVLForConditionalGeneration(config)


def test_every_parameter_is_of_one_part_with_and_without_peft():
    model = tiny()
    parts = split_parameters(model)
    assert sum(len(part) for part in parts.values()) == len(list(model.parameters()))
    assert all(name.startswith("model.vision_tower.") for name in parts["tower"])
    adapted = split_parameters(get_peft_model(tiny(), lora_config(2, 4, True, True, [], True)))
    assert any("lora_A" in name for name in adapted["tower"])
    assert any("modules_to_save" in name for name in adapted["projector"])


def test_a_part_that_nobody_knows_is_an_error():
    model = tiny()
    model.text_tower = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"text_tower\.weight belongs to none"):
        split_parameters(model)
    with pytest.raises(ValueError, match="no module text_tower"):
        split_parameters(tiny(), {"llm": ("text_tower",)})


def test_freezing_is_by_part():
    model = tiny()
    freeze(model, {"tower": False, "projector": True, "llm": False})
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(split_parameters(model)["projector"])


@pytest.mark.parametrize("tied", [True, False])
def test_the_rows_of_new_tokens_learn_under_lora_and_the_others_do_not(tied):
    torch.manual_seed(0)
    new = [500, 501]
    model = get_peft_model(tiny(tie_word_embeddings=tied), lora_config(2, 4, False, True, new, tied))
    inner = model.get_base_model()
    before = inner.get_input_embeddings().weight.detach().clone()
    head_before = inner.get_output_embeddings().weight.detach().clone()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    ids = torch.tensor([[500, 3, 501, 4]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    merged = model.merge_and_unload()
    for table, old in ((merged.get_input_embeddings(), before), (merged.get_output_embeddings(), head_before)):
        changed = (table.weight != old).any(-1).nonzero().flatten().tolist()
        assert changed == new


def test_a_path_may_name_a_parameter_of_the_model():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.layer = torch.nn.Linear(2, 2)

    found = split_parameters(Scaled(), {"scale": ("scale",), "layer": ("layer",)})
    assert {part: list(parameters) for part, parameters in found.items()} == {
        "scale": ["scale"],
        "layer": ["layer.weight", "layer.bias"],
    }
