"""A key is in no text that is kept or shown, however a server spells it."""

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.engine.captioners.api_key import ApiKey
from finecap.engine.captioners.ensemble import Captioner
from finecap.errors import StopRun

KEY = 'sk-ab/cd"ef\\gh&ij<kl'
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=40)
SPELLINGS = {
    "plain": lambda key: key,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON in JSON": lambda key: json.dumps(json.dumps(key))[3:-3],
    "JSON with slashes escaped": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "JSON with code points": lambda key: "".join(f"\\u{ord(character):04x}" for character in key),
    "JSON with code points in capitals": lambda key: "".join(f"\\u{ord(character):04X}" for character in key),
    "URL": lambda key: quote(key, safe=""),
    "HTML": html.escape,
    "HTML with numbers": lambda key: "".join(f"&#{ord(character)};" for character in key),
    "repr": lambda key: repr(key)[1:-1],
}


@pytest.mark.parametrize("name", SPELLINGS)
@settings(deadline=None)
@given(key=keys)
def test_no_spelling_of_a_key_comes_through(name, key):
    said = f"before {SPELLINGS[name](key)} after"
    assert ApiKey(key).hidden(said, 1000) == "before [key] after"
    assert ApiKey(None).hidden(said, 1000) == said


@given(before=st.integers(0, 200), spelling=st.sampled_from(sorted(SPELLINGS)), most=st.integers(1, 200))
def test_a_key_at_the_cut_does_not_come_through_by_half(before, spelling, most):
    """However much of it the cut would leave, and however often it is echoed before."""
    said = "." * before + SPELLINGS[spelling](KEY) * 30
    shown = ApiKey(KEY).hidden(said, most)
    assert len(shown) <= most
    assert set(shown.replace("[key]", "")) <= set(".[key]"), "dots, marks, and the beginning of a mark"


def test_what_is_no_key_stays():
    assert ApiKey(KEY).hidden("sk-ab/cd is a part of it", 100) == "sk-ab/cd is a part of it"
    assert ApiKey(KEY).hidden("x" * 100, 10) == "x" * 10


@given(st.text(), st.integers(0, 50))
def test_whatever_comes_out_is_utf8(said, most):
    for key in (ApiKey(KEY), ApiKey(None)):
        assert len(key.hidden(said + "\ud83d", most).encode()) >= 0


def test_it_is_not_shown_by_mistake():
    assert KEY not in repr(ApiKey(KEY))
    assert KEY not in f"{ApiKey(KEY)}"


def test_it_comes_from_the_environment(monkeypatch):
    captioner = Captioner("a", "m", ("http://x/v1",), api_key_env="A_KEY")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(StopRun, match="A_KEY is not set"):
        ApiKey.of(captioner)
    monkeypatch.setenv("A_KEY", "sk-\u00e4")
    with pytest.raises(StopRun, match="holds characters that no key has"):
        ApiKey.of(captioner)
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    assert ApiKey.of(captioner).headers() == {"Authorization": f"Bearer {KEY}"}
    assert ApiKey.of(Captioner("a", "m", ("http://x/v1",))).headers() == {}
