"""A captioner for measuring with: any chat request is answered after a fixed time, in a process of its own.

    python -m benchmarks.engine.server 50      # milliseconds; prints its base URL

No body is parsed, so that the server costs as little as it can of the cores that it shares with what is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

USAGE = {"prompt_tokens": 1000, "completion_tokens": 30, "total_tokens": 1030}


@contextmanager
def served(milliseconds: float) -> Generator[str]:
    """Starts a server that takes `milliseconds` for an answer; yields its base URL."""
    command = [sys.executable, str(Path(__file__).resolve()), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def application(seconds: float) -> web.Application:
    """The server; no two answers are alike, since the engine drops captions that it has seen."""
    answered = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal answered
        await request.read()
        await asyncio.sleep(seconds)
        answered += 1
        text = (
            f"Picture number {answered} of {os.getpid()} shows a red kettle on a wooden table beside an open window."
        )
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": str(answered), "object": "chat.completion", "created": 0, "model": "fake", "choices": [choice]}
        return web.Response(text=json.dumps(body | {"usage": USAGE}), content_type="application/json")

    app = web.Application(client_max_size=2**28)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def main(seconds: float) -> None:
    runner = web.AppRunner(application(seconds), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1000))
