"""Conversations, as TRL, FineVision, the Cauldron and LLaVA publish them."""

import json

import datasets
import pytest

from finecap.sources.rows import Bad, Row
from finecap.sources.turns import from_llava, from_messages, from_prompt
from tests.support.sources import PICTURES, SIZES, everything


def turns(*words):
    roles = ["user", "assistant"] * len(words)
    return [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in zip(roles, words, strict=False)
    ]


def shown(count, messages):
    messages[0]["content"][:0] = [{"type": "image"}] * count
    return messages


def test_messages_and_images_as_trl_publishes_them(tmp_path):
    rows = [
        {"images": PICTURES[:1], "messages": shown(1, turns("What?", "A."))},
        {"images": PICTURES[1:3], "messages": shown(2, turns("Which?", "The second.", "Sure?", "Yes."))},
        {"images": [], "messages": turns("Hello", "Hello.")},
    ]
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List(
                {
                    "role": datasets.Value("string"),
                    "content": datasets.List({"type": datasets.Value("string"), "text": datasets.Value("string")}),
                }
            ),
        }
    )
    made = [{**row, "images": [{"bytes": one, "path": None} for one in row["images"]]} for row in rows]
    datasets.Dataset.from_list(made, features=features).to_parquet(str(tmp_path / "train.parquet"))
    source, found, pictures = everything(str(tmp_path))
    assert source.kind == "messages"
    assert [row.messages for row in found] == [row["messages"] for row in rows]
    assert pictures == [row["images"] for row in rows]
    assert [row.sizes for row in found] == [SIZES[:1], SIZES[1:3], []]
    assert all(row.record is None for row in found)


def test_texts_and_images_as_finevision_and_the_cauldron_publish_them(tmp_path):
    texts = [{"user": "Q1", "assistant": "A1", "source": "vqa"}, {"user": "Q2", "assistant": "A2", "source": "vqa"}]
    made = {"images": [[{"bytes": PICTURES[0], "path": None}], None], "texts": [texts, texts[:1]]}
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": [{key: datasets.Value("string") for key in ("user", "assistant", "source")}],
        }
    )
    datasets.Dataset.from_dict(made, features=features).to_parquet(str(tmp_path / "train-0.parquet"))
    _, rows, pictures = everything(str(tmp_path))
    assert [row.messages for row in rows] == [shown(1, turns("Q1", "A1", "Q2", "A2")), turns("Q1", "A1")]
    assert pictures == [[PICTURES[0]], []]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_llava_json(folder, form):
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    rows = [
        {"id": "1", "image": "0/0.png", "conversations": said},
        {
            "id": "1",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi."}],
            "model": "x",
        },
        {
            "id": 3,
            "image": ["0/1.png", "1/5.png"],
            "conversations": [{"from": "human", "value": "<image> or <image>?"}, said[1]],
        },
        {"id": 4, "image": "0/2.png", "conversations": [{"from": "human", "value": "Who?\n<image>"}, said[1]]},
        {"id": 5, "image": "../secret.png", "conversations": said},
        {"id": 6, "conversations": said},
    ]
    text = json.dumps(rows, indent=2) if form == "json" else "\n".join(map(json.dumps, rows))
    (folder / f"llava.{form}").write_text(text)
    source, found, pictures = everything(str(folder / f"llava.{form}"))
    assert source.kind == "conversations"
    assert [row.id for row in found] == [f"llava.{form}#{number}" for number in range(6)]
    assert found[0].messages == shown(1, turns("What?", "A."))
    assert found[1] == Row(f"llava.{form}#1", [], messages=turns("Hi", "Hi."))
    assert [piece.get("text", "IMAGE") for piece in found[2].messages[0]["content"]] == ["IMAGE", " or ", "IMAGE", "?"]
    assert [piece.get("text", "IMAGE") for piece in found[3].messages[0]["content"]] == ["Who?", "IMAGE"]
    assert pictures == [[PICTURES[0]], [], [PICTURES[1], PICTURES[5]], [PICTURES[2]], None, None]
    assert found[4].reason == "path refused: '../secret.png' leads out of the source's folder, itself or over a link"
    assert found[5].reason == "pictures: 1 are shown in the turns, and there are 0"


def test_marks_in_the_texts_of_messages_show_the_pictures_as_llama_factory_writes_them():
    said = [
        {"role": "user", "content": "<image>Who?"},
        {"role": "assistant", "content": "Kane."},
        {"role": "user", "content": "And here?\n<image>"},
        {"role": "assistant", "content": "Nobody."},
    ]
    found = from_messages(said, 2)
    assert [[piece.get("text", "IMAGE") for piece in turn["content"]] for turn in found] == [
        ["IMAGE", "Who?"],
        ["Kane."],
        ["And here?", "IMAGE"],
        ["Nobody."],
    ]
    with pytest.raises(Bad, match="pictures: 2 are shown in the turns, and there are 1"):
        from_messages(said, 1)
    # without a picture the mark is a word, such as one about HTML
    assert from_messages(said[:2], 0)[0]["content"] == [{"type": "text", "text": "<image>Who?"}]


HUMAN, GPT = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}


@pytest.mark.parametrize(
    ("said", "pictures", "reason"),
    [
        ([], 0, "turns: conversations is '[]', expected a list of turns"),
        ("text", 0, "turns: conversations is 'text', expected a list of turns"),
        (None, 0, "turns: conversations is 'None', expected a list of turns"),
        ([HUMAN, "A"], 0, "turns: conversations holds 'A', expected an object with its fields"),
        ([GPT, HUMAN], 0, "turns: assistant, user; expected user and assistant by turns"),
        ([HUMAN, GPT, HUMAN], 0, "turns: user, assistant, user; expected user and assistant by turns"),
        ([HUMAN, HUMAN, GPT], 0, "turns: user, user, assistant; expected user and assistant by turns"),
        ([{"from": "system", "value": "S"}], 0, "turns: system; expected user and assistant by turns"),
        ([HUMAN, {"from": "tool", "value": "A"}], 0, "turns: the role 'tool' is none of "),
        ([HUMAN, {"from": ["gpt"], "value": "A"}], 0, "turns: the role \"['gpt']\" is none of "),
        ([HUMAN, {"from": "gpt", "value": " \n"}], 0, "turns: one is empty"),
        ([HUMAN, {"from": "gpt", "value": 7}], 0, "turns: '7', expected text"),
        ([HUMAN, {"from": "gpt"}], 0, "turns: 'None', expected text"),
        (
            [{"from": "human", "value": "<image><image>"}, GPT],
            1,
            "pictures: 2 are shown in the turns, and there are 1",
        ),
    ],
)
def test_a_conversation_that_is_none_says_why(said, pictures, reason):
    with pytest.raises(Bad) as caught:
        from_llava(said, pictures)
    assert str(caught.value).startswith(reason)


def test_pictures_that_no_turn_shows_come_first():
    said = [{"from": "system", "value": "S"}, HUMAN, GPT]
    assert from_llava(said, 2)[1]["content"] == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Q"}]


def test_messages_of_plain_texts_are_what_trl_makes_of_them():
    from trl.data_utils import prepare_multimodal_messages

    said = [{"role": role, "content": text} for role, text in (("system", "S"), ("user", "Q"), ("assistant", "A"))]
    ours = from_messages(said, 2)
    theirs = prepare_multimodal_messages(said, ["first", "second"])
    for turn in theirs:
        turn["content"] = [{key: value for key, value in piece.items() if key != "image"} for piece in turn["content"]]
    assert ours == theirs


def test_pieces_of_messages_keep_their_places():
    pieces = [{"type": "text", "text": "Is "}, {"type": "image", "text": None}, {"type": "text", "text": " a cat?"}]
    said = [{"role": "user", "content": pieces}, {"role": "assistant", "content": "Yes."}]
    found = from_messages(said, 1)
    assert found[0]["content"] == [pieces[0], {"type": "image"}, pieces[2]]
    with pytest.raises(Bad, match="expected a piece of type image or text"):
        from_messages([{"role": "user", "content": [{"type": "video"}]}, said[1]], 0)
    with pytest.raises(Bad, match="outside of a user's turn"):
        from_messages([{"role": "user", "content": "Q"}, {"role": "assistant", "content": [{"type": "image"}]}], 1)


def said_by(role, text, shown=0):
    return {"role": role, "content": [*[{"type": "image", "text": None}] * shown, {"type": "text", "text": text}]}


@pytest.mark.parametrize("form", ["texts", "marked texts", "plain messages", "messages"])
def test_prompt_and_completion_as_trl_publishes_them(tmp_path, form):
    prompt, completion = {
        "texts": ("What?", " A cat."),
        "marked texts": ("<image>\nWhat?", "A cat."),
        "plain messages": ([{"role": "user", "content": "What?"}], [{"role": "assistant", "content": "A cat."}]),
        "messages": ([said_by("user", "What?", 1)], [said_by("assistant", "A cat.")]),
    }[form]
    made = {"prompt": [prompt], "completion": [completion], "images": [[{"bytes": PICTURES[0], "path": None}]]}
    datasets.Dataset.from_dict(made).to_parquet(str(tmp_path / "train.parquet"))
    source, rows, pictures = everything(str(tmp_path))
    assert (source.kind, source.unread) == ("prompt and completion", [])
    assert rows[0].messages == shown(1, turns("What?", "A cat."))
    assert pictures == [[PICTURES[0]]]


def test_answers_in_a_prompt_are_not_trained_and_those_of_the_completion_are():
    prompt = [
        {"role": "system", "content": "S"},
        said_by("user", "Q1", 1),
        said_by("assistant", "A1"),
        said_by("user", "Q2"),
    ]
    completion = [said_by("assistant", "A2"), said_by("user", "Q3"), said_by("assistant", "A3")]
    found = from_prompt(prompt, completion, 1)
    assert [turn["role"] for turn in found] == ["system", *["user", "assistant"] * 3]
    assert [turn.get("trained") for turn in found] == [None, None, False, None, None, None, None]
    assert from_prompt(prompt, "A2", 1)[-1] == turns("Q2", "A2")[-1]


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        (None, "A", "turns: prompt is 'None', expected a list of turns"),
        ("Q", None, "turns: completion is 'None', expected a list of turns"),
        ("Q", " ", "turns: one is empty"),
        ("Q", [], "turns: completion is '[]'"),
        (
            [{"role": "assistant", "content": "A"}],
            "B",
            "turns: assistant, assistant; expected user and assistant by turns",
        ),
        ([said_by("user", "Q")], "A", "pictures: 0 are shown in the turns, and there are 1"),
        ("<image><image>", "A", "pictures: 2 are shown in the turns, and there are 1"),
    ],
)
def test_a_prompt_that_does_not_fit_says_why(prompt, completion, reason):
    with pytest.raises(Bad) as caught:
        from_prompt(prompt, completion, 1)
    assert str(caught.value).startswith(reason)
