"""Conversations to ids and labels, with a chat template.

The template is rendered and tokenized as `processor.apply_chat_template` does it, so ids and loss mask are its ids and
`assistant_masks` with any tokenizer; a test compares them.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finecap.sources.rows import Content, Message
from finecap.tasks.conversation import Turn
from finevit_training.data.bad_records import UnusableRecord
from finevit_vl.losses import IGNORE_INDEX

# Questions and answers that a template is tried with before it is believed to put any others in the same places.
_PROBES = (("Q", "A"), ("a\n {{b}}", "c\n\nd  e"), ("<é> 漢 {#", "{% x %}\t'"))


class Ids(NamedTuple):
    """A tokenized conversation: ids and labels, (tokens,) int32; the id where the assistant speaks, else
    IGNORE_INDEX.
    """

    input_ids: np.ndarray
    labels: np.ndarray


class Rendered(NamedTuple):
    """A conversation as text, and (first, last + 1) character of what the assistant says."""

    text: str
    spoken: list[tuple[int, int]]


class ChatEncoder:
    """Encodes conversations; every picture is a single image token.

    Args:
        tokenizer: a fast one, which knows where in the text its tokens are.
        template: the chat template, with generation marks around what the assistant says.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer: Any = tokenizer
        self.template = template
        self._single = self._single_turn()

    def encode(self, conversation: Sequence[Message]) -> Ids:
        """The ids of a conversation.

        Raises:
            UnusableRecord: the template refuses it.
        """
        rendered = self._quickly(conversation) or self.render(conversation)
        text = rendered.text
        # A template that writes the first token itself must not get it twice.
        bos = self.tokenizer.bos_token
        more = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        encoded = self.tokenizer(text, return_offsets_mapping=True, return_attention_mask=False, **more)
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        supervised = _supervised(encoded["offset_mapping"], _trained(rendered.spoken, conversation))
        return Ids(ids, np.where(supervised, ids, IGNORE_INDEX).astype(np.int32))

    def render(self, conversation: Sequence[Message]) -> Rendered:
        """A conversation as the template writes it.

        Raises:
            UnusableRecord: the template refuses it.
        """
        try:
            texts, spoken = render_jinja_template(
                conversations=[[{"role": one["role"], "content": one["content"]} for one in conversation]],
                chat_template=self.template,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            raise UnusableRecord(f"the chat template refuses it: {error}") from error
        return Rendered(texts[0], [(int(start), int(end)) for start, end in spoken[0]])

    def _single_turn(self) -> tuple[str, str, str, int] | None:
        """What the template writes before, between and after the question and the answer of a single turn about a
        picture, and how far behind the answer the assistant is still speaking; None if that depends on the words.
        """
        question, answer = "QUESTION-7f3a", "ANSWER-9c1e"
        text, spoken = self.render(messages([Turn(question, answer, "")]))
        before, _, rest = text.partition(question)
        between, _, after = rest.partition(answer)
        start = len(before) + len(question) + len(between)
        if len(spoken) != 1 or spoken[0][0] != start:
            return None
        found = before, between, after, spoken[0][1] - start - len(answer)
        for one in _PROBES:
            conversation = messages([Turn(*one, "")])
            if _filled(found, *one) != self.render(conversation):
                return None
        return found

    def _quickly(self, conversation: Sequence[Message]) -> Rendered | None:
        """As `render`, without the template, for a single turn about a picture."""
        if self._single is None or len(conversation) != 2:
            return None
        question, answer = (message["content"] for message in conversation)
        if [piece["type"] for piece in question] != ["image", "text"] or len(answer) != 1:
            return None
        words = question[1].get("text", ""), answer[0].get("text", "")
        if any(text != text.strip() for text in words):  # which templates may take away
            return None
        return _filled(self._single, *words)


def _filled(single: tuple[str, str, str, int], question: str, answer: str) -> Rendered:
    before, between, after, more = single
    start = len(before) + len(question) + len(between)
    return Rendered(f"{before}{question}{between}{answer}{after}", [(start, start + len(answer) + more)])


def messages(turns: Sequence[Turn]) -> list[Message]:
    """Turns about one picture as `apply_chat_template` takes them; the picture comes before the first question."""
    conversation: list[Message] = []
    for turn in turns:
        picture: list[Content] = [] if conversation else [{"type": "image"}]
        conversation.append({"role": "user", "content": [*picture, {"type": "text", "text": turn.prompt}]})
        conversation.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return conversation


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds in a text whatever the tokenizer would read as one of its special tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(re.escape(token) for token in tokens))


def _trained(spoken: list[tuple[int, int]], conversation: Sequence[Message]) -> list[tuple[int, int]]:
    """What the loss falls on of what the assistant says.

    Raises:
        UnusableRecord: the template marks something else than the answers, so they cannot be told apart.
    """
    trained = [one.get("trained", True) for one in conversation if one["role"] == "assistant"]
    if all(trained):
        return spoken
    if len(spoken) != len(trained):
        raise UnusableRecord(f"the chat template marks {len(spoken)} answers of {len(trained)}; only some are trained")
    return [span for span, wanted in zip(spoken, trained, strict=True) if wanted]


def _supervised(offsets: Any, spans: Any) -> np.ndarray:
    """Which tokens overlap what the assistant says.

    Args:
        offsets: (first, last + 1) character of each token.
        spans: the same of each text between the template's generation marks.
    """
    starts, ends = np.asarray(offsets).T
    supervised = np.zeros(len(starts), dtype=bool)
    for start, end in spans:
        supervised |= (starts < end) & (ends > start)
    return supervised
