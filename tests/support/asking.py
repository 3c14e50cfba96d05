"""A client of captioners with the journal and counters that a pass over one shard has."""

import asyncio
from collections import Counter

from finecap.engine.captioners.client import ChatClient, RequestRejected, chat_client
from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.contract import Context, Settings
from finecap.engine.running.journal import Journal
from finecap.errors import StopRun
from tests.support.faulty_server import FaultyServer

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SECRET = "sk-hunter2-0123456789"


def captioner(*servers, **options):
    urls = tuple(server.url if isinstance(server, FaultyServer) else server for server in servers)
    return Captioner("cap", "model-1", urls, **{"timeout_s": 5.0, **options})


def context(out, who, models, shard, budget=None):
    settings = Settings(captioners=(who,), budget=budget or Budget())
    return Context(shard, settings, Journal(out / f"{shard}.jsonl"), None, out, models)


def asking_in(here):
    """What a pass does for one row."""

    async def one(row):
        options = {"key": row["key"], "journal": here.journal, "counters": here.counters, "max_tokens": 9}
        return await chat_client(here).ask(here.settings.captioners[0], row["key"], [JPEG], **options)

    return one


class Asking:
    """A client with its journal and counters, as a pass over one shard has them."""

    def __init__(self, out, who, budget=None):
        self.client = ChatClient(out, budget or Budget())
        self.journal = Journal(out / "shard.journal.jsonl")
        self.counters = Counter()
        self.who = who

    async def ask(self, number, images=(JPEG,), **options):
        key = {"key": f"{number}|dense", "journal": self.journal, "counters": self.counters}
        return await self.client.ask(self.who, f"Describe. {number}", images, **key, **{"max_tokens": 64, **options})

    async def _ask_all(self, numbers, in_flight):
        places = asyncio.Semaphore(in_flight)

        async def one(number):
            async with places:
                try:
                    return await self.ask(number)
                except (RequestRejected, StopRun) as error:
                    return error

        try:
            return dict(zip(numbers, await asyncio.gather(*map(one, numbers)), strict=True))
        finally:
            await self.client.close()
            self.journal.close()

    def ask_all(self, numbers, in_flight=32):
        """What each request ended as, errors included."""
        return asyncio.run(self._ask_all(numbers, in_flight))


def ask_one(out, who, **options):
    async def run():
        asking = Asking(out, who)
        try:
            return await asking.ask(0, **options)
        finally:
            await asking.client.close()

    return asyncio.run(run())
