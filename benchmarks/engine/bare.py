"""The least that captions a file of pictures: asyncio, aiohttp and nothing that survives a crash."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PROMPT = "Describe this image in detail."


def bare_loop(pictures: Path, server: str, in_flight: int, max_side: int, out: Path) -> None:
    """Decode, scale, encode and post every picture of a parquet file, `in_flight` at once, and write the answers.

    The picture work is the engine's (Pillow, in threads, the same filter and quality); there is no journal, no budget,
    no check of what is answered, no second try, no sync.
    """
    table = pa.table(asyncio.run(_post_all(pictures, server, in_flight, max_side)))
    pq.write_table(table, out, compression="zstd")


async def _post_all(pictures: Path, server: str, in_flight: int, max_side: int) -> dict[str, list[str]]:
    places = asyncio.Semaphore(in_flight)
    answers: dict[str, str] = {}
    keys: list[str] = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):

        async def one(key: str, data: bytes) -> None:
            try:
                body = await asyncio.to_thread(_body, data, max_side)
                headers = {"Content-Type": "application/json"}
                async with session.post(f"{server}/chat/completions", data=body, headers=headers) as response:
                    response.raise_for_status()
                    answers[key] = (await response.json())["choices"][0]["message"]["content"]
            finally:
                places.release()

        for batch in pq.ParquetFile(pictures).iter_batches(32, columns=["key", "image"]):
            for row in batch.to_pylist():
                await places.acquire()
                keys.append(row["key"])
                group.create_task(one(row["key"], row["image"]))
    return {"key": keys, "caption": [answers[key] for key in keys]}


def _body(data: bytes, max_side: int) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": PROMPT}]
    message = {"role": "user", "content": parts}
    return json.dumps({"model": "fake", "messages": [message], "max_tokens": 640, "temperature": 0.7}).encode()
