"""`finevit serve`: the nano checkpoint behind an OpenAI-compatible URL answers as `finevit ask` does."""

import base64
import io
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from PIL import Image

from finecap.boxes import parse_boxes
from finecap.corpus.build import generate
from finecap.tasks.wording import GLOBAL_CAPTION, TRANSCRIBE, question_prompt
from finevit import ask
from finevit_cli import main
from tests.support.paths import NANO

SCENES = 24


def chat(server: str, picture: Image.Image, words: str, **more) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": words}]
    body = {"model": str(NANO), "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    request = urllib.request.Request(
        f"{server}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def text(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"].strip()


def picture_of(record: dict) -> Image.Image:
    return Image.open(io.BytesIO(record["image"]["bytes"])).convert("RGB")


@pytest.fixture(scope="module")
def generator():
    return ask.load(str(NANO), "cpu")


def test_an_unknown_option_is_a_message(capsys):
    assert main(["serve", str(NANO), "--prot", "1"]) == 2
    assert capsys.readouterr().err == "finevit: No such option '--prot'; see `finevit serve --help`\n"


def test_a_folder_without_a_model_is_a_message(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 2
    assert "holds no config.json" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "words"), [("scene", GLOBAL_CAPTION), ("doc", TRANSCRIBE)])
def test_the_served_model_answers_as_ask_does(nano_server, generator, kind, words):
    for index in range(4):
        picture = picture_of(generate(kind, index, 5, "test", "nano"))
        answer = chat(nano_server, picture, words, max_tokens=256)
        assert text(answer) == ask.ask(generator, picture, words) != ""
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > usage["prompt_tokens"]


@pytest.mark.slow
def test_served_boxes_are_those_of_ground(nano_server, generator):
    """The server leaves the box marks out, which the parser does not need."""
    for index in range(4):
        record = generate("scene", index, 5, "test", "nano")
        picture, expression = picture_of(record), record["regions"][0]["caption"]
        answer = text(chat(nano_server, picture, question_prompt("grounding", expression), max_tokens=64))
        expected, _ = ask.ground(generator, picture, expression)
        assert [found.box for found in expected.boxes] == [
            found.box for found in parse_boxes(answer, *picture.size).boxes
        ]
        assert expected.boxes


@pytest.mark.slow
def test_served_captions_name_what_is_there(nano_server):
    """Against the captions of the wrong pictures: what scenes have in common is no evidence."""
    records = [generate("scene", index, 6, "test", "nano") for index in range(SCENES)]
    captions = [text(chat(nano_server, picture_of(record), GLOBAL_CAPTION, max_tokens=128)) for record in records]

    def recall(shift: int) -> float:
        named = [
            region["label"] in captions[(index + shift) % SCENES]
            for index, record in enumerate(records)
            for region in record["regions"]
            if region["kind"] == "object"
        ]
        return sum(named) / len(named)

    assert recall(0) > 2 * max(recall(shift) for shift in range(1, SCENES))


@pytest.mark.slow
def test_another_name_is_refused_and_the_server_goes_on(nano_server):
    picture = picture_of(generate("scene", 0, 5, "test", "nano"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        chat(nano_server, picture, GLOBAL_CAPTION, model="somebody/else")
    assert refused.value.code == 400
    assert text(chat(nano_server, picture, GLOBAL_CAPTION, max_tokens=64))


@pytest.mark.slow
def test_an_interrupt_ends_the_server_cleanly():
    command = [sys.executable, "-m", "finevit_cli", "serve", str(NANO), "--device", "cpu", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "running on" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert "Application shutdown complete" in "".join(said)
    assert "Traceback" not in "".join(said)
