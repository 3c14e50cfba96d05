"""`finevit serve`: the nano checkpoint behind an OpenAI-compatible URL answers as `finevit ask` does."""

import base64
import http.server
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from PIL import Image, ImageOps

from finecap.boxes import parse_boxes
from finecap.corpus.build import generate
from finecap.tasks.wording import GLOBAL_CAPTION, TRANSCRIBE, question_prompt
from finevit import ask
from finevit.serve import check_messages, guarded, open_source
from finevit_cli import main
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.image_inputs import open_image
from tests.support.paths import NANO

SCENES = 24


def data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def chat(server: str, picture: Image.Image | str, words: str, **more) -> dict:
    """`picture` is sent as a data URI; a string is sent as it stands."""
    url = picture if isinstance(picture, str) else data_uri(picture)
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


def post(url: str, body: dict) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read()


@pytest.mark.slow
def test_no_other_model_is_loaded(nano_server, tmp_path):
    load = nano_server.removesuffix("/v1") + "/load_model"
    other = shutil.copytree(NANO, tmp_path / "other")
    for name in (str(other), "somebody/else"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(load, {"model": name})
        assert "loads no other model" in reason(refused)
    assert b"ready" in post(load, {"model": str(NANO)})


def reason(refused) -> str:
    assert refused.value.code == 400
    return json.load(refused.value)["detail"]


@pytest.mark.slow
def test_a_transparent_picture_is_answered_as_ask_does(nano_server, generator):
    """Black on transparent: laid over black, as transformers' loaders do, nothing is left to read."""
    picture = picture_of(generate("doc", 1, 5, "test", "nano"))
    ink = Image.new("RGBA", picture.size, "black")
    ink.putalpha(ImageOps.invert(picture.convert("L")))
    flat = Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink).convert("RGB")
    answer = text(chat(nano_server, ink, TRANSCRIBE, max_tokens=256))
    assert answer == ask.ask(generator, flat, TRANSCRIBE)
    assert answer != ask.ask(generator, Image.new("RGB", ink.size, "black"), TRANSCRIBE)


@pytest.mark.slow
def test_links_and_paths_are_refused_with_the_reason(nano_server, tmp_path):
    picture = tmp_path / "secret.png"
    Image.new("RGB", (56, 56)).save(picture)
    for source, why in (
        (str(picture), "opens no files"),
        (f"file://{picture}", "opens no files"),
        ("http://127.0.0.1:1/a.png", "fetches no URLs"),
        ("data:image/png;base64,AAAA", "cannot be opened as an image"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(nano_server, source, GLOBAL_CAPTION)
        assert why in reason(refused)


BROKEN_CHATS = [
    None,
    "hello",
    {},
    [],
    ["hello"],
    [{"content": "hello"}],
    [{"role": 5, "content": "hello"}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": ["hello"]}],
    [{"role": "user", "content": [{"text": "hello"}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}],
]


@pytest.mark.parametrize("messages", BROKEN_CHATS)
def test_messages_that_are_none_are_named(messages):
    with pytest.raises(ValueError, match=r"^messages.*: expected"):
        check_messages(messages)


def test_messages_of_every_known_form_pass():
    part = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
    parts = [part, {**part, "image_url": {"url": "AAAA"}}, {"type": "text", "text": "hello"}]
    check_messages([{"role": "system", "content": "short"}, {"role": "user", "content": parts}, {"role": "assistant"}])


@pytest.mark.slow
def test_messages_that_are_none_get_400_with_the_reason(nano_server):
    for messages in BROKEN_CHATS:
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(nano_server, "", "", messages=messages)
        assert "messages" in reason(refused)


@pytest.mark.slow
def test_nobody_unloads_the_model_for_all(nano_server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(nano_server.removesuffix("/v1") + "/reset", {})
    assert refused.value.code == 404


@pytest.mark.slow
def test_sounds_and_videos_are_refused_before_they_are_fetched(nano_server):
    parts = [{"type": "audio_url", "audio_url": {"url": "http://127.0.0.1:1/a.wav"}}]
    parts += [{"type": "video_url", "video_url": {"url": "http://127.0.0.1:1/a.mp4"}}]
    for part in parts:
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(nano_server, "", "", messages=[{"role": "user", "content": [part]}])
        assert "Unknown content type" in reason(refused)


@pytest.fixture
def web(tmp_path):
    """A web server on this machine that has one picture, and counts who came."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            Image.new("RGB", (56, 56), "red").save(self.wfile, "PNG")

        def log_message(self, *args):
            """Nothing is printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.png", asked
        server.shutdown()


@pytest.mark.parametrize("allow_urls", [False, True])
def test_private_addresses_are_never_fetched(web, allow_urls):
    url, asked = web
    with pytest.raises(ValueError, match=r"Image 0.*(fetches no URLs|no public address)"):
        open_source(url, "Image 0", allow_urls, allow_paths=True)
    assert not asked
    assert open_image(url, "the library's own loader").size == (56, 56)  # the picture is there
    assert asked == ["/a.png"]


def test_a_path_opens_only_with_allow_paths(tmp_path, monkeypatch):
    """`pic1.png` spelled so that it is valid base64 is no way in either."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (56, 56), "red").save(tmp_path / "pictures", "PNG")
    with pytest.raises(ValueError, match="cannot be opened as an image"):
        open_source("pictures", "Image 0", allow_urls=False, allow_paths=False)
    assert open_source("pictures", "Image 0", allow_urls=False, allow_paths=True).size == (56, 56)
    with pytest.raises(ValueError, match="--allow-paths"):
        open_source("./pictures", "Image 0", allow_urls=True, allow_paths=False)


def test_the_guard_reaches_the_processor_and_goes_away(tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    processor = FineViTImageProcessorPil()
    with guarded(allow_urls=False, allow_paths=False), pytest.raises(ValueError, match="--allow-paths"):
        processor(str(tmp_path / "a.png"))
    assert processor(str(tmp_path / "a.png"))["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_serving_needs_a_model_by_name(capsys):
    assert main(["serve", "--port", "0"]) == 2
    assert "Name the model folder" in capsys.readouterr().err


def test_help_names_both_flags(capsys):
    main(["serve", "--help"])
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--allow-urls", "--allow-paths", "--port"))
    assert said.lower().count("usage:") == 1


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
