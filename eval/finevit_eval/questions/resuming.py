"""Answers that an interrupted run got are not asked for again."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from finecap.made_with import package_versions, weight_hashes
from finevit_eval.kept import Kept
from finevit_eval.receipts import PACKAGES, local_folder
from finevit_eval.result import Settings
from finevit_vl.answering import Answer, AnswerGenerator, Conversation


def kept_conditions(model: str, generator: AnswerGenerator, settings: Settings) -> dict[str, Any]:
    """What answers depend on besides question and picture, see `Kept`."""
    processor = generator.processor
    return {
        "weights": weight_hashes(local_folder(model)),
        "settings": vars(settings),
        "processor": [processor.image_processor.to_json_string(), processor.chat_template],
        "versions": package_versions(PACKAGES),
    }


def answer_or_recall(
    generator: AnswerGenerator, kept: Kept | None, conversations: Sequence[Conversation], arguments: dict[str, Any]
) -> list[Answer]:
    """Answer a batch, or take its answers from what was kept.

    A batch is kept as a whole: padding makes the last bits of an answer's numbers depend on its batch, so a run that
    goes on asks in the same batches and gets the same answers as one that was never interrupted.
    """
    if kept is None:
        return generator(conversations, **arguments)
    key = _batch_key(conversations, arguments)
    if found := kept.get([key]):
        return [Answer(**fields) for fields in json.loads(found[key])]
    answers = generator(conversations, **arguments)
    kept.put({key: json.dumps([vars(answer) for answer in answers]).encode()})
    return answers


def _batch_key(conversations: Sequence[Conversation], arguments: dict[str, Any]) -> str:
    """SHA-256 of words, pictures and generation arguments."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for conversation in conversations:
        for message in conversation:
            for part in message["content"]:
                image = part.get("image")
                content = part["text"].encode() if image is None else image.tobytes()
                described = [message["role"], part["type"], None if image is None else [image.mode, *image.size]]
                digest.update(json.dumps([*described, hashlib.sha256(content).hexdigest()]).encode())
        digest.update(b"\n")
    return digest.hexdigest()
