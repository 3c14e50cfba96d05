"""Conversations as strangers write them, to turns: `messages`, or `prompt` and `completion` (TRL), `texts`
(FineVision, the Cauldron), LLaVA's.
"""

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
    shows = pictures > 0 and _is_plain(rows)
    turns = _marked_turns(rows, "role", "content") if shows else _messages(rows)
    return (_placed if shows else checked)(turns, pictures)


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


def from_prompt(prompt: Any, completion: Any, pictures: int) -> list[Message]:
    """TRL's `prompt` and `completion`: each a text, where "<image>" shows a picture, or messages as `from_messages`
    takes them. Only the completion is trained. Raises Bad, see `from_messages`.
    """
    asked, answered = _side(prompt, "prompt", "user"), _side(completion, "completion", "assistant")
    turns = from_messages([*asked, *answered], pictures)
    for turn in turns[: len(asked)]:
        if turn["role"] == "assistant":
            turn["trained"] = False
    return turns


# The columns of each form, in the order in which its function takes them; the pictures' number comes last.
FORMS: dict[str, tuple[tuple[str, ...], Callable[..., list[Message]]]] = {
    "messages": (("messages",), from_messages),
    "texts": (("texts",), from_texts),
    "conversations": (("conversations",), from_llava),
    "prompt and completion": (("prompt", "completion"), from_prompt),
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


def _messages(rows: list[Mapping[str, Any]]) -> list[Message]:
    return [_turn(one.get("role"), _pieces(one.get("content"))) for one in rows]


def _is_plain(rows: list[Mapping[str, Any]]) -> bool:
    """Messages of texts alone, in which no picture has a place of its own?"""
    return all(isinstance(one.get("content"), str) for one in rows)


def _side(value: Any, what: str, role: str) -> list[Mapping[str, Any]]:
    """A text as a message of this role, or messages as they are."""
    return [{"role": role, "content": value.strip()}] if isinstance(value, str) else _dicts(value, what)


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
