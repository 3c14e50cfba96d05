"""Entry point of the group `lmms_eval.models`: makes `--model finevit_vl` known to lmms-eval."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """Return the manifest of the chat model `finevit_vl`.

    The import stays inside: lmms-eval loads this function while its own registry module is half imported, and one
    failing plug-in drops all the others.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="finevit_vl", chat_class_path="finevit_eval.questions.adapter.FineViTVL")
