"""Reading what servers send: whatever it is, it is an answer, or it is not, and nothing breaks."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.engine.captioners.chat_format import Completion, chat_body, error_text, read_completion, retry_after
from finecap.engine.captioners.ensemble import Captioner

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
messages = st.fixed_dictionaries({}, optional={"content": anything, "reasoning_content": anything}) | anything
choices = st.fixed_dictionaries({}, optional={"message": messages, "finish_reason": anything}) | anything
usages = st.fixed_dictionaries({}, optional={"prompt_tokens": anything, "completion_tokens": anything}) | anything
answers = st.fixed_dictionaries({}, optional={"choices": st.lists(choices) | anything, "usage": usages}) | anything


@given(answers.map(lambda answer: json.dumps(answer).encode()) | st.binary())
def test_any_body_is_read_as_texts_and_counts_or_as_nothing(raw):
    text, finish_reason, usage = read_completion(raw)
    assert text is None or isinstance(text, str)
    assert finish_reason is None or isinstance(finish_reason, str)
    assert usage is None or all(isinstance(count, int) and count >= 0 for count in usage)
    assert isinstance(error_text(raw), str)


@given(st.text(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_a_server_says_is_read_as_it_is(text, prompt, completion):
    answer = {
        "choices": [{"message": {"content": text}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }
    for raw in (json.dumps(answer), json.dumps(answer, ensure_ascii=False)):
        assert read_completion(raw.encode("utf-8", "surrogatepass")) == Completion(
            text, "length", (prompt, completion)
        )


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b"<html>busy</html>", b'{"error": {"message": "x"}}', b"\xff\xfe"]
)
def test_what_is_no_answer_is_none(raw):
    assert read_completion(raw) == Completion(None, None, None)


@given(st.text())
def test_any_prompt_is_sent_as_it_is(prompt):
    captioner = Captioner("a", "m", ("http://x/v1",))
    for images, read in (((), lambda content: content), ((b"\xff\xd8\xff",), lambda content: content[1]["text"])):
        body = json.loads(chat_body(captioner, prompt, images, 5, None))
        assert read(body["messages"][0]["content"]) == prompt
        assert body["temperature"] == 0.7


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_any_retry_after_is_seconds_or_nothing(value):
    seconds = retry_after({"Retry-After": value})
    assert seconds is None or seconds >= 0


def test_retry_after_is_seconds_or_a_date():
    assert retry_after({"Retry-After": "7"}) == 7
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after({"Retry-After": format_datetime(soon, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({}) is None


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
