"""Conversations as strangers write them, to turns: `messages` (TRL), `texts` (FineVision, the Cauldron), LLaVA's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from finecap.sources.rows import Bad, Content, Message

MARK = "<image>"  # where LLaVA shows a picture
ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    **{"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
}


def from_messages(value: Any, pictures: int) -> list[Message]:
    """TRL's `messages`: `role`, and as `content` a text or a list of {"type": "image"} and {"type": "text", "text"}.

    Args:
        pictures: of the row. Where every content is a text they are shown where a user's text says "<image>", as
            LLaMA-Factory and ms-swift write it; without that at the head of the first user turn.

    Raises:
        Bad: it is no such conversation, or shows another number of pictures.
    """
    rows = _dicts(value, "messages")
    if pictures and all(isinstance(one.get("content"), str) for one in rows):
        return _placed(_marked_turns(rows, "role", "content"), pictures)
    return checked([_turn(one.get("role"), _pieces(one.get("content"))) for one in rows], pictures)


def from_texts(value: Any, pictures: int) -> list[Message]:
    """FineVision's `texts`: pairs of `user` and `assistant`. Raises Bad, see `from_messages`."""
    turns = []
    for one in _dicts(value, "texts"):
        turns += [_turn("user", _marked(one.get("user"))), _turn("assistant", _text(one.get("assistant")))]
    return _placed(turns, pictures)


def from_llava(value: Any, pictures: int) -> list[Message]:
    """LLaVA's `conversations`: `from` ("human", "gpt") and `value`, where "<image>" shows a picture. Raises Bad, see
    `from_messages`.
    """
    return _placed(_marked_turns(_dicts(value, "conversations"), "from", "value"), pictures)


FORMS: dict[str, Callable[[Any, int], list[Message]]] = {
    "messages": from_messages,
    "texts": from_texts,
    "conversations": from_llava,
}


def checked(turns: list[Message], pictures: int) -> list[Message]:
    """The turns, if a user and an assistant take them by turns, from a user to an assistant, behind at most one of the
    system, and they show as many pictures as there are.

    Raises:
        Bad: they do not.
    """
    roles = [turn["role"] for turn in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or talk != ["user", "assistant"] * (len(talk) // 2):
        raise Bad(f"turns: {', '.join(roles[:8]) or 'none'}; expected user and assistant by turns")
    if any(piece["type"] == "image" for turn in turns if turn["role"] != "user" for piece in turn["content"]):
        raise Bad("pictures: one is shown outside of a user's turn")
    shown = sum(piece["type"] == "image" for turn in turns for piece in turn["content"])
    if shown != pictures:
        raise Bad(f"pictures: {shown} are shown in the turns, and there are {pictures}")
    if any(not turn["content"] for turn in turns):
        raise Bad("turns: one is empty")
    return turns


def _dicts(value: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise Bad(f"turns: {what} is {str(value)[:80]!r}, expected a list of turns")
    if bad := [one for one in value if not isinstance(one, Mapping)]:
        raise Bad(f"turns: {what} holds {str(bad[0])[:80]!r}, expected an object with its fields")
    return value


def _turn(role: Any, content: list[Content]) -> Message:
    if not isinstance(role, str) or role not in ROLES:
        raise Bad(f"turns: the role {str(role)[:40]!r} is none of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": content}


def _pieces(content: Any) -> list[Content]:
    if not isinstance(content, list):
        return _text(content)
    pieces: list[Content] = []
    for one in content:
        kind = one.get("type") if isinstance(one, Mapping) else None
        if kind == "image":
            pieces.append({"type": "image"})
        elif kind == "text":
            pieces += _text(cast(Mapping[str, Any], one).get("text"))
        else:
            raise Bad(f"turns: {str(one)[:80]!r}, expected a piece of type image or text")
    return pieces


def _marked_turns(rows: list[Mapping[str, Any]], role: str, words: str) -> list[Message]:
    """Turns whose role and words stand in these fields, with the pictures that users' words show."""
    turns = [_turn(one.get(role), []) for one in rows]
    for turn, one in zip(turns, rows, strict=True):
        turn["content"] = (_marked if turn["role"] == "user" else _text)(one.get(words))
    return turns


def _text(words: Any) -> list[Content]:
    if not isinstance(words, str):
        raise Bad(f"turns: {str(words)[:80]!r}, expected text")
    return [{"type": "text", "text": words}] if words.strip() else []


def _marked(words: Any) -> list[Content]:
    """Text with marks where pictures are shown; a line break beside a mark only sets it apart."""
    if not isinstance(words, str) or MARK not in words:
        return _text(words)
    pieces: list[Content] = []
    texts = words.split(MARK)
    for number, text in enumerate(texts):
        text = text.removeprefix("\n") if number else text
        pieces += _text(text.removesuffix("\n") if number < len(texts) - 1 else text)
        if number < len(texts) - 1:
            pieces.append({"type": "image"})
    return pieces


def _placed(turns: list[Message], pictures: int) -> list[Message]:
    if not any(piece["type"] == "image" for turn in turns for piece in turn["content"]):
        _show_first(turns, pictures)
    return checked(turns, pictures)


def _show_first(turns: list[Message], pictures: int) -> None:
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first:
        first["content"][:0] = [{"type": "image"} for _ in range(pictures)]
