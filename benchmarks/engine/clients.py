"""What a request costs a client, by library: the reason why the caption engine's client is aiohttp.

    python -m benchmarks.engine.clients     # 64 at once, bodies of 35 KB, answers after 50 ms

Each library sends the same chat request with a picture as a data URL to a server in another process, the libraries in
turns; CPU time is this process's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from benchmarks.engine.server import served
from benchmarks.measuring import add_out, conditions, progress, write_figures

IN_FLIGHT, BODY_BYTES, LATENCY_MS = 64, 35_000, 50
PROMPT = "Describe this image in detail."
URL = "data:image/jpeg;base64," + base64.b64encode(os.urandom(BODY_BYTES * 3 // 4)).decode()
PARTS = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": PROMPT}]
MESSAGES: Any = [{"role": "user", "content": PARTS}]
REQUEST = {"model": "fake", "messages": MESSAGES, "max_tokens": 128, "temperature": 0.7}

Ask = Callable[[], Awaitable[str]]


async def aiohttp_ask(server: str, stack: AsyncExitStack) -> Ask:
    import aiohttp

    session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

    async def ask() -> str:
        body = json.dumps(REQUEST).encode()
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{server}/chat/completions", data=body, headers=headers) as response:
            return (await response.json())["choices"][0]["message"]["content"]

    return ask


async def httpx_ask(server: str, stack: AsyncExitStack) -> Ask:
    import httpx

    return await _httpx_like(httpx, server, stack)


async def httpx2_ask(server: str, stack: AsyncExitStack) -> Ask:
    import httpx2

    return await _httpx_like(httpx2, server, stack)


async def _httpx_like(library: Any, server: str, stack: AsyncExitStack) -> Ask:
    limits = library.Limits(max_connections=None, max_keepalive_connections=None)
    client = await stack.enter_async_context(library.AsyncClient(limits=limits, timeout=60))

    async def ask() -> str:
        response = await client.post(f"{server}/chat/completions", json=REQUEST)
        return response.json()["choices"][0]["message"]["content"]

    return ask


async def openai_ask(server: str, stack: AsyncExitStack) -> Ask:
    from openai import AsyncOpenAI

    client = await stack.enter_async_context(AsyncOpenAI(base_url=server, api_key="none"))

    async def ask() -> str:
        answer = await client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=128, temperature=0.7)
        return answer.choices[0].message.content or ""

    return ask


async def huggingface_hub_ask(server: str, stack: AsyncExitStack) -> Ask:
    from huggingface_hub import AsyncInferenceClient

    client = await stack.enter_async_context(AsyncInferenceClient(base_url=server, api_key="none"))

    async def ask() -> str:
        answer = await client.chat_completion(MESSAGES, model="fake", max_tokens=128, temperature=0.7)
        return answer.choices[0].message.content or ""

    return ask


LIBRARIES: dict[str, Callable[[str, AsyncExitStack], Awaitable[Ask]]] = {
    "aiohttp": aiohttp_ask,
    "httpx2": httpx2_ask,
    "httpx": httpx_ask,
    "openai": openai_ask,
    "huggingface_hub": huggingface_hub_ask,
}


async def measure(make: Callable[[str, AsyncExitStack], Awaitable[Ask]], server: str, requests: int) -> Any:
    """Requests/s and CPU-ms per request, connections being open already."""
    async with AsyncExitStack() as stack:
        ask = await make(server, stack)
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with places:
                assert "kettle" in await ask()

        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        start, cpu_start = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one() for _ in range(requests)))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return {"requests_per_s": requests / seconds, "cpu_ms": 1000 * cpu / requests}


def compare(requests: int, repeats: int) -> dict[str, Any]:
    """Median over the turns, and each turn."""
    turns: dict[str, list[Any]] = {name: [] for name in LIBRARIES}
    with served(LATENCY_MS) as server:
        for turn in range(repeats):
            for name, make in LIBRARIES.items():
                turns[name].append(asyncio.run(measure(make, server, requests)))
                progress(f"turn {turn + 1} of {repeats}, {name}: {turns[name][-1]['cpu_ms']:.2f} CPU-ms a request")
    return {
        "setting": {"in_flight": IN_FLIGHT, "body_bytes": len(json.dumps(REQUEST)), "latency_ms": LATENCY_MS}
        | {"requests": requests, "turns": repeats},
        "libraries": {
            name: {
                "version": version(name),
                "requests_per_s": statistics.median(turn["requests_per_s"] for turn in runs),
                "cpu_ms": statistics.median(turn["cpu_ms"] for turn in runs),
                "cpu_ms_turns": [turn["cpu_ms"] for turn in runs],
            }
            for name, runs in turns.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    for name, found in result["libraries"].items():
        figures = f"{found['requests_per_s']:7.0f} requests/s {found['cpu_ms']:7.2f} CPU-ms a request"
        print(f"{name:16s}{found['version']:10s}{figures}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=640, help="of each library in a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the libraries")
    add_out(parser, "engine_clients")
    args = parser.parse_args(argv)
    report = {**conditions(()), **compare(args.requests, args.repeats)}
    write_figures(report, args.out)
    show(report)


if __name__ == "__main__":
    main()
