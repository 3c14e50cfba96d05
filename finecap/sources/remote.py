"""Files behind URLs (hf://, s3://, https://), read in ranges through fsspec.

What fails for a while (no connection, a time-out, 5xx, 429, a body that is cut off) is tried again with growing waits.
"""

from __future__ import annotations

import io
import posixpath
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urlsplit

from finecap.errors import StopRun
from finecap.shards.on_disk import MAX_ITEM_BYTES
from finecap.sources.places import KNOWN, SUFFIXES, Files, expanded, suffix
from finecap.sources.rows import Bad, Size
from finecap.sources.sizes import upright_size

# Tries of a request, and the wait before try n+1: drawn from 0 to FIRST_WAIT * 2^n seconds.
MOST_TRIES, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 30.0
CONNECT_SECONDS, READ_SECONDS = 15.0, 60.0
# What is fetched at least when a file is read in order.
BUFFER = 2**22
# Too busy, too slow, too early.
NOT_NOW = (408, 409, 425, 429)
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# Whose exceptions, where they are no OSError, tell of the network.
NETWORK = (
    *("aiohttp", "aiobotocore", "botocore", "fsspec", "huggingface_hub"),
    *("httpx", "httpx2", "httpcore", "httpcore2"),
)
WEB = ("http", "https")

T = TypeVar("T")


class Cut(OSError):
    """Fewer bytes came than were asked for."""


@dataclass(frozen=True)
class RemotePlace:
    """A folder behind a URL.

    Attributes:
        root: without a slash at its end.
        query: what a signed link has behind its path; it is in no id and no message, as `user`.
        user: name and password of a web server, with the "@" behind them.
    """

    root: str
    query: str = ""
    at_once: int = 16
    user: str = ""

    def open(self, name: str, in_order: bool = True) -> BinaryIO:
        size = self._told(name, "size", lambda system, path: system.info(path)["size"])
        if size is None:
            raise StopRun(f"{self.root}/{name}: the server does not say how long it is, so no part of it can be read")
        ranges = _Ranges(self, name, size)
        return cast(BinaryIO, io.BufferedReader(ranges, BUFFER) if in_order else ranges)

    def inside(self, name: str, reference: str) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), reference))
        if path.startswith(("/", "..")) or "\0" in path or "\\" in path:
            raise Bad(f"path refused: {reference[:200]!r} leads out of the source's folder")
        return quote(path) if urlsplit(self.root).scheme in WEB else path

    def picture(self, name: str) -> bytes:
        try:
            data = patiently(lambda: self._call(name, lambda system, path: system.cat_file(path)), self._shown(name))
        except FINAL as error:
            raise Bad(f"unreadable: {type(error).__name__}") from error
        if len(data) > MAX_ITEM_BYTES:
            raise Bad(f"too large: {len(data)} bytes")
        return data

    def size(self, name: str) -> Size:
        return upright_size(self.picture(name))

    def range(self, name: str, start: int, stop: int) -> bytes:
        """These bytes of a file, all of them."""

        def fetch(system: Any, path: str) -> bytes:
            data = system.cat_file(path, start=start, end=stop, **_uncached(path, system))
            if len(data) > stop - start:
                raise StopRun(f"{self._shown(name)}: the server sends more than the range that it is asked for")
            if len(data) < stop - start:
                raise Cut(f"{len(data)} of {stop - start} bytes came")
            return data

        return self._told(name, "bytes", fetch)

    def _told(self, name: str, what: str, ask: Callable[[Any, str], T]) -> T:
        try:
            return patiently(lambda: self._call(name, ask), self._shown(name))
        except FINAL as error:
            raise StopRun(
                f"{self._shown(name)}: its {what} cannot be read ({type(error).__name__}); it is gone or may not be "
                "read. Bring it back, or start again without it."
            ) from error

    def _call(self, name: str, ask: Callable[[Any, str], T]) -> T:
        system, path = file_system(f"{self.root}/{name}{self.query}".replace("://", f"://{self.user}", 1))
        return ask(system, path)

    def _shown(self, name: str) -> str:
        return f"{self.root}/{name}"


class _Ranges(io.RawIOBase):
    """A file that is read in ranges."""

    def __init__(self, place: RemotePlace, name: str, size: int) -> None:
        self._place, self._name, self._size, self._at = place, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        data = self._place.range(self._name, self._at, stop)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, one for each process, and the path in it.

    Raises:
        ValueError: no file system of this name, or its package is missing.
    """
    import fsspec

    protocol = urlsplit(url).scheme
    try:
        return fsspec.core.url_to_fs(url, **_options(protocol))
    except ImportError as error:
        raise ValueError(f"{protocol}:// needs more packages ({error}): pip install 'finevit[remote]'") from error
    except ValueError as error:
        raise ValueError(f"{protocol}:// cannot be read ({error}); use hf://, s3:// or https://") from error


def _options(protocol: str) -> dict[str, Any]:
    if protocol in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        return {"client_kwargs": {"timeout": timeout}}
    if protocol == "s3":
        return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}}
    return {}


def _uncached(path: str, system: Any) -> dict[str, str]:
    """Where fsspec reads a range through a file, that it shall not read ahead: this is done here."""
    return {} if getattr(system, "async_impl", False) else {"cache_type": "none"}


def patiently(call: Callable[[], T], what: str) -> T:
    """The result of a request, tried again while what fails may pass.

    Raises:
        FileNotFoundError, PermissionError: it is not there, or may not be read.
        StopRun: all tries failed, or the server refused it.
    """
    for number in range(MOST_TRIES):
        try:
            return call()
        except Exception as error:  # each file system has exceptions of its own
            # fsspec says of whatever goes wrong over HTTP that there is no such file; what did is the cause.
            failure = error.__cause__ if isinstance(error, FINAL) and error.__cause__ else error
            status = _status(failure)
            _raise_final(error, failure, status, what)
        if number + 1 < MOST_TRIES:
            time.sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**number)))
    kind = f"{type(failure).__name__}: {str(failure)[:200]}" if status is None else f"status {status}"
    raise StopRun(
        f"{what}: nothing complete came in {MOST_TRIES} tries ({kind}). This may be an outage: start again when it is "
        "over."
    ) from failure


def _raise_final(error: Exception, failure: BaseException, status: int | None, what: str) -> None:
    """Raise what no other try will change."""
    if status in (401, 403) or "Credentials" in type(failure).__name__:
        raise PermissionError(f"status {status}" if status else str(failure)) from error
    if status in (404, 410):
        raise FileNotFoundError(f"status {status}") from error
    if status is not None and 400 <= status < 500 and status not in NOT_NOW:
        raise StopRun(f"{what}: the server refuses it with status {status}") from error
    if isinstance(failure, (StopRun, *FINAL)) or not _is_network(failure):
        raise error


def _is_network(error: BaseException) -> bool:
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in NETWORK


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or its cause, tells of."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        for found in (getattr(error, "status", None), getattr(response, "status_code", response)):
            if isinstance(found, int):
                return found
        error = error.__cause__
    return None


def remote_files(url: str) -> Files:
    """The files below a URL, of a pattern (see `finecap.sources.places.expanded`), or one file.

    Raises:
        ValueError: there is nothing, or it cannot be listed.
    """
    url, user, query = _link(url)
    urls = expanded(url)
    with ThreadPoolExecutor(RemotePlace.at_once) as pool:
        listed = list(pool.map(lambda one: _files_of(one, user, query, url), urls))
    steps = zip(*(root.split("/") for _, root, _ in listed), strict=False)
    root = "/".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))
    found = {
        f"{below}/{name}".removeprefix(root)[1:]: size for files, below, _ in listed for name, size in files.items()
    }
    place = RemotePlace(root, query, user=user)
    return Files(place, dict(sorted(found.items())), all(named for _, _, named in listed))


def _files_of(url: str, user: str, query: str, pattern: str) -> tuple[dict[str, int], str, bool]:
    """See `_listed`, of one of the URLs that `pattern` stands for."""
    of = "" if url == pattern else f"; the pattern {pattern} names it"
    try:
        found, root, named = _listed(url, user, query)
    except FINAL as error:
        raise ValueError(f"{url}: is not there, or may not be read ({type(error).__name__}: {error}){of}") from error
    if not found:
        raise ValueError(f"{url}: holds no file of a known kind{of}; {KNOWN}")
    if of and not named:
        raise ValueError(f"{url}: is a folder{of}; a pattern with braces names files")
    return found, root, named


def remote_folder(url: str) -> RemotePlace:
    """A folder whose files are asked for by their paths.

    Raises:
        ValueError: it is not there, as far as that can be asked: a web server knows no folders.
    """
    url, user, query = _link(url)
    system, path = file_system(url)
    if urlsplit(url).scheme not in WEB and not patiently(lambda: system.isdir(path), url):
        raise ValueError(f"image_folder {url}: is no folder, or may not be read")
    return RemotePlace(url, query, user=user)


def _link(url: str) -> tuple[str, str, str]:
    """A URL without a slash at its end, and the user and query that open it at a web server, see `RemotePlace`."""
    if urlsplit(url).scheme not in WEB:
        return url.rstrip("/"), "", ""
    url, mark, after = url.partition("?")
    name, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(name + at, "", 1).rstrip("/"), name + at, mark + after


def _listed(url: str, user: str, query: str) -> tuple[dict[str, int], str, bool]:
    """Size of each file by path below the root, the root, and whether files were named."""
    protocol = urlsplit(url).scheme
    system, path = file_system(url.replace("://", f"://{user}", 1) + query)
    folder, _, last = url.rpartition("/")
    if protocol in WEB:
        if set("*[") & set(last) or suffix(last) not in SUFFIXES:
            raise ValueError(f"{url}: {protocol}:// names a single file; a web server has no list of its files")
        size = patiently(lambda: system.info(path)["size"], url)
        return {last: size or 0}, folder, True
    if set("*?[") & set(url):
        magic = next(at for at, step in enumerate(url.split("/")) if set("*?[") & set(step))
        root = "/".join(url.split("/")[:magic])
        found = patiently(lambda: system.glob(path, detail=True), url)
        named = True
    else:
        info = patiently(lambda: system.info(path), url)
        if info["type"] == "file":
            return {last: info["size"]}, folder, True
        root, named = url, False
        found = patiently(lambda: system.find(path, detail=True), url)
    start = system._strip_protocol(root).rstrip("/") + "/"
    sizes = {
        name.removeprefix(start): info["size"] or 0
        for name, info in found.items()
        if info["type"] == "file" and suffix(name) in SUFFIXES
    }
    hidden = [name for name in sizes if any(step.startswith(".") for step in name.split("/"))]
    return {name: size for name, size in sizes.items() if name not in hidden}, root, named
