"""A served detector: a real small model behind a loopback server, and a client that faults do not confuse."""

import asyncio
import base64
import gzip
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from finecap import web as web_module
from finecap.engine.contract import Context
from finecap.engine.detectors import served as served_detector
from finecap.engine.detectors import server as detector_server
from finecap.engine.detectors.detector import DetectionFailed, jpeg
from finecap.engine.detectors.load import load_detector
from finecap.engine.detectors.served import ServedDetector
from finecap.engine.detectors.server import application
from finecap.engine.detectors.zero_shot import ZeroShotDetector
from finecap.engine.passes.boxes import Options
from finecap.engine.running.journal import Journal
from finecap.errors import StopRun
from tests.support.tiny_detectors import noise_picture, save_grounding_dino, widest_gap

PHRASES = ["a red car", "the tree"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return ZeroShotDetector.from_folder(save_grounding_dino(tmp_path_factory.mktemp("tiny-dino")), 0.5)


@pytest.fixture
def picture():
    return noise_picture()


@contextmanager
def served(app) -> Iterator[str]:
    """The URL of an application that runs in a thread."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app)

    async def start():
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def faulty(answers):
    """A server that gives these answers to /detect in turn, the last one for ever: (status, body), and headers."""
    waiting, asked = list(answers), []

    async def detect(request):
        asked.append(await request.json())
        status, body, *headers = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if status is None:
            request.transport.abort()
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=status or 200, body=raw, headers=headers[0] if headers else {})

    async def health(request):
        return web.json_response({"detector": "faulty 1"})

    app = web.Application()
    app.router.add_post("/detect", detect)
    app.router.add_get("/health", health)
    return app, asked


GOOD = (200, json.dumps({"detector": "faulty 1", "detections": [{"bbox": [1, 2, 3, 4], "phrase": 1, "score": 0.5}]}))


async def ask(url, picture, phrases=PHRASES, patience_s=30.0):
    return await (await ServedDetector.open(url, 0.5, patience_s)).detect(picture, phrases)


def test_it_finds_what_the_same_model_finds_here(local, picture, tmp_path):
    seen = Image.open(io.BytesIO(jpeg(picture)))
    everything = asyncio.run(local.detect(seen, PHRASES, 0.0))
    middle = widest_gap([item.score for item in everything])
    context = Context("00000", None, Journal(tmp_path / "journal"), None, tmp_path, {})

    with served(application(local)) as url:
        detector = load_detector(Options(url=url, min_score=middle), context)
        found = context.models["event loop"].run_until_complete(detector.detect(picture, PHRASES))
        assert load_detector(Options(url=url), context) is detector
    context.models["event loop"].close()

    assert detector.name == local.name
    assert found == [item for item in everything if item.score >= middle]
    assert 0 < len(found) < 16
    assert everything != asyncio.run(local.detect(seen.rotate(180), PHRASES, 0.0)), "the picture must matter"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"image": "http://somewhere/picture.jpg"}, 400, "expected a data URL"),
        ({"image": "data:image/png;base64,!!!"}, 400, "image: "),
        ({"image": "data:image/png;base64,AAAA"}, 400, "not a picture"),
        ({"phrases": "a dog"}, 400, "phrases: Input should be a valid"),
        ({"phrases": ["x" * 5000]}, 400, "phrases.0: String should have at most"),
        ({"min_score": 2}, 400, "min_score: Input should be less than"),
        ({"min_score": None}, 400, "min_score"),
        ({"extra": 1}, 400, "extra"),
        ({"image": "x" * 70_000_000}, 413, "exceeded"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(local, picture, change, status, message):
    image = "data:image/jpeg;base64," + base64.b64encode(jpeg(picture)).decode()

    async def post(url):
        body = {"image": image, "phrases": PHRASES, "min_score": 0.5} | change
        async with aiohttp.ClientSession() as session, session.post(f"{url}/detect", json=body) as response:
            return response.status, await response.json()

    with served(application(local)) as url:
        answer = asyncio.run(post(url))
        assert asyncio.run(ask(url, picture)), "the server lives on"
    assert answer[0] == status
    assert message in answer[1]["error"]["message"]


def test_a_pixel_bomb_is_refused_before_it_is_decoded(local, picture, monkeypatch):
    monkeypatch.setattr(detector_server, "MAX_PIXELS", 200 * 120 - 1)
    with served(application(local)) as url, pytest.raises(DetectionFailed, match="200x120 pixels > 23999"):
        asyncio.run(ask(url, picture))


def answering(**changes):
    found = {"bbox": [1, 2, 3, 4], "phrase": 1, "score": 0.5} | changes
    return 200, json.dumps({"detector": "faulty 1", "detections": [found]})


GZIP = {"Content-Encoding": "gzip"}
BOMB = gzip.compress(json.dumps({"detector": "faulty 1", "filler": "x" * 10**8}).encode())


@pytest.mark.parametrize(
    "fault",
    [
        (500, "oh"),
        (502, "no server"),
        (503, "busy"),
        (504, "slow"),
        (429, ""),
        (409, ""),
        (425, ""),
        (None, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, "x" * 5_000_000),
        (500, "x" * 5_000_000),
        (200, BOMB, GZIP),
        (200, b"no gzip", GZIP),
        answering(score=float("nan")),
        answering(score=float("inf")),
        answering(score=1.5),
        answering(score=-0.5),
        answering(bbox=[1, float("nan"), 3, 4]),
        answering(bbox=[1, 2, float("inf"), 4]),
        answering(bbox=[1, 2, 3]),
        answering(bbox="1234"),
        (200, json.dumps({"detector": "faulty 1", "detections": [[[1, 2, 3, 4], 0, None]] * 10_001})),
    ],
)
def test_faults_that_pass_are_tried_again(picture, monkeypatch, fault):
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
    app, asked = faulty([fault, fault, GOOD])
    with served(app) as url:
        (found,) = asyncio.run(ask(url, picture))
    assert found == ((1, 2, 3, 4), 1, 0.5)
    assert [question["phrases"] for question in asked] == [PHRASES] * 3


def test_a_server_that_asks_to_be_left_alone_is(picture, monkeypatch):
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
    for headers, least, most in (({"Retry-After": "1"}, 1.0, 60.0), ({}, 0.0, 0.9)):
        app, asked = faulty([(429, "", headers), GOOD])
        with served(app) as url:
            start = time.monotonic()
            assert len(asyncio.run(ask(url, picture))) == 1
            assert least <= time.monotonic() - start < most
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "asked_times", "message"),
    [
        ((400, "bad picture"), 1, "detector refused the picture: 400 bad picture"),
        ((413, "large"), 1, "detector refused the picture"),
        ((200, GOOD[1].replace('"phrase": 1', '"phrase": 2')), 1, "detector failed: .* not asked for"),
        ((500, "out of memory"), 3, r"detector failed: .*500 out of memory \(3 tries\)"),
    ],
)
def test_a_picture_that_fails_for_good_has_a_reason(picture, monkeypatch, answer, asked_times, message):
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(served_detector, "MAX_ATTEMPTS", 3)
    app, asked = faulty([answer])
    with served(app) as url, pytest.raises(DetectionFailed, match=message):
        asyncio.run(ask(url, picture))
    assert len(asked) == asked_times


def test_an_answer_that_a_proxy_compressed_unasked_is_read(picture):
    app, _ = faulty([(200, gzip.compress(GOOD[1].encode()), GZIP)])
    with served(app) as url:
        assert len(asyncio.run(ask(url, picture))) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_outage_behind_a_gateway_stops_the_run_and_no_picture_fails(picture, monkeypatch, status):
    """More failures than tries: the picture is found when the server is back, and else the run stops."""
    monkeypatch.setattr(web_module, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr("finecap.engine.captioners.endpoints.LONGEST_PAUSE", 0.01)
    app, asked = faulty([(status, "gone")] * 15 + [GOOD])
    with served(app) as url:
        assert len(asyncio.run(ask(url, picture))) == 1
    assert len(asked) == 16
    app, _ = faulty([(status, "gone")])
    with served(app) as url, pytest.raises(StopRun, match=r"boxes\.url.*gone"):
        asyncio.run(ask(url, picture, patience_s=0.5))


def test_without_a_server_the_run_stops_and_says_so(picture, monkeypatch):
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
    no_detector = pytest.raises(StopRun, match=r"boxes\.url: no detector server at .*/health, it answers 404")
    with served(web.Application()) as url, no_detector:
        asyncio.run(ask(url, picture))
    with pytest.raises(StopRun, match=r"boxes\.url.* no endpoint answered for 0\.2 s"):
        asyncio.run(ask(url, picture, patience_s=0.2))


def test_another_detector_behind_the_same_url_stops_the_run(picture):
    app, _ = faulty([(200, '{"detector": "another 2"}')])
    with served(app) as url, pytest.raises(StopRun, match="was 'faulty 1' and is 'another 2' now"):
        asyncio.run(ask(url, picture))


def test_without_a_detector_the_server_does_not_start(tmp_path):
    with pytest.raises(StopRun, match="holds no model"):
        detector_server.serve(tmp_path, "127.0.0.1", 0)


def test_it_is_compared_with_the_one_that_made_the_boxes_before(tmp_path):
    """Between two starts as well: what it is called is kept beside the outputs."""

    def start(name):
        async def health(request):
            return web.json_response({"detector": name})

        app = web.Application()
        app.router.add_get("/health", health)
        with served(app) as url:
            context = Context("00000", None, Journal(tmp_path / "boxes" / "journal"), None, tmp_path, {})
            try:
                return load_detector(Options(url=url), context).name
            finally:
                context.models["event loop"].close()

    assert start("one 1") == "one 1" == start("one 1")
    with pytest.raises(StopRun, match="is 'two 1', and boxes of this run were found by 'one 1'"):
        start("two 1")
