"""What the loop and the finished folder must know of a stage."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from finevit_training.recipe import Recipe

if TYPE_CHECKING:
    from finevit_training.loop.trainer import PackedTrainer


class Stage(NamedTuple):
    """A stage of the training.

    Attributes:
        name: of its script.
        build_trainer: everything that a run of a recipe needs, ready for `train()`; raises ValueError for what the
            recipe asks for and is not there.
        model_facts: what receipt and card say of a trained model, in values of JSON; at least `parameters`.
        card: the card's template, a file of `card_templates`; each of `model_facts` may stand in it.
        loss: what the loss is and in which unit, for the curve.
        folders: name -> encoder in the model that is saved in a folder of this name as well, as a model of its own.
        draw: pictures for the finished folder by the names of their files; on all ranks.
    """

    name: str
    build_trainer: Callable[[Recipe], "PackedTrainer"]
    model_facts: Callable[[Any], dict[str, Any]]
    card: str
    loss: str
    folders: Mapping[str, str] = {}
    draw: Callable[[Any], Mapping[str, Image.Image]] = lambda trainer: {}
