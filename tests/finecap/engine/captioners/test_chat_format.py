"""Reading what servers send: whatever it is, it is an answer, or it is not, and nothing breaks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.engine.captioners.chat_format import Completion, chat_body, error_text, read_completion
from finecap.engine.captioners.ensemble import Captioner

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
messages = st.fixed_dictionaries({}, optional={"content": anything, "reasoning_content": anything}) | anything
choices = st.fixed_dictionaries({}, optional={"message": messages, "finish_reason": anything}) | anything
usages = st.fixed_dictionaries({}, optional={"prompt_tokens": anything, "completion_tokens": anything}) | anything
answers = st.fixed_dictionaries({}, optional={"choices": st.lists(choices) | anything, "usage": usages}) | anything


@given(answers.map(lambda answer: json.dumps(answer).encode()) | st.binary())
def test_any_body_is_read_as_texts_and_counts_or_as_nothing(raw):
    text, finish_reason, *counts = read_completion(raw)
    assert text is None or isinstance(text, str)
    assert finish_reason is None or isinstance(finish_reason, str)
    assert all(count is None or (isinstance(count, int) and count >= 0) for count in counts)
    assert isinstance(error_text(raw), str)


@given(st.text(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_a_server_says_is_read_as_it_is(text, prompt, completion):
    answer = {
        "choices": [{"message": {"content": text}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }
    for raw in (json.dumps(answer), json.dumps(answer, ensure_ascii=False)):
        assert read_completion(raw.encode("utf-8", "surrogatepass")) == Completion(text, "length", prompt, completion)


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b"<html>busy</html>", b'{"error": {"message": "x"}}', b"\xff\xfe"]
)
def test_what_is_no_answer_is_none(raw):
    assert read_completion(raw) == Completion(None, None, None, None)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (12, 12),
        (12.0, 12),
        ("12", 12),
        (0, 0),
        (12.5, None),
        ("12.0", None),
        ("²", None),
        ("9" * 5000, None),
        (-1, None),
        (True, None),
        (2**40, None),
        (float("nan"), None),
        (float("inf"), None),
        ([12], None),
        (None, None),
    ],
)
def test_a_count_is_read_from_whole_numbers_however_they_are_written(said, read):
    usage = {"prompt_tokens": said, "completion_tokens": 7}
    answer = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    assert read_completion(json.dumps(answer).encode()) == Completion("x", None, read, 7)


@given(st.text())
def test_any_prompt_is_sent_as_it_is(prompt):
    captioner = Captioner("a", "m", ("http://x/v1",))
    for images, read in (((), lambda content: content), ((b"\xff\xd8\xff",), lambda content: content[1]["text"])):
        body = json.loads(chat_body(captioner, prompt, images, 5, None))
        assert read(body["messages"][0]["content"]) == prompt
        assert body["temperature"] == 0.7


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "m", "code": "insufficient_quota", "type": "t"}}, "insufficient_quota m"),
        ({"error": "plain"}, "plain"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"message": "vLLM", "code": 400}, "vLLM"),
        (["odd"], "['odd']"),
    ],
)
def test_errors_are_read_from_every_servers_form(body, text):
    assert error_text(json.dumps(body).encode()) == text
