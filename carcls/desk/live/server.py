"""The monitor's HTTP server: a page, a stream of what runs do, and posts of their events.

Everything is below /TOKEN, which the address that is printed has; without it everything is 404.

GET  /                       the page; /page/NAME its parts
POST / or /publish/epoch/end/  an event as JSON, or in the form field ``data``; answers 204, else a
     plain line: 400 no event, 408 too slow, 413 too long, 429 too often, 503 the disk has a
     problem, 507 no room
GET  /events[?runs=RUN,RUN]  a stream: ``runs`` (summaries of all runs, then of those that changed)
     and ``lines`` (events of the runs asked for; its id says up to where, for a reconnect)
GET  /pictures/RUN/NAME      the picture of that name
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import cast

from carcls.desk.live import posts
from carcls.desk.live.store import RUN, Store, picture_path
from carcls.desk.live.summary import Run
from carcls.errors import ConfigError

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise ConfigError(
        f"the page's server needs starlette and uvicorn ({error}); `make .venv/monitor` in the "
        "repository installs them (or pip install -e '.[monitor]')"
    ) from None

POLL_S = 0.25  # between two looks at the files' lengths
GATHER_S = 0.05  # in which events are gathered for one chunk
SUMMARIES_S = 1.0  # between two lists of what changed
BEAT_S = 10.0
BODY_S = 10.0  # for a request's body
BODY = 64 << 10  # bytes of it
ASKED = 64  # runs whose events one stream may ask for
RATE, BURST = 200.0, 400.0  # posts a second, and at once
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
PICTURE, PIECE = 16 << 20, 64 << 10  # bytes of one that is shown, of it at once
PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Live:
    """What all requests share."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_closing = False
        self.news = asyncio.Event()  # set, and replaced, when there is any
        self._left, self._filled = BURST, time.monotonic()

    def may_post(self) -> bool:
        """Whether another post comes slowly enough."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._filled) * RATE)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wake(self) -> None:
        """Let every stream look for what is new."""
        self.news.set()
        self.news = asyncio.Event()

    def close(self) -> None:
        """End every stream."""
        self.is_closing = True
        self.wake()

    async def follow(self) -> None:
        """Notice for ever what others add to the files."""
        while True:
            await self.read_all()
            await asyncio.sleep(POLL_S)

    async def read_all(self) -> None:
        """Read all that there is, a block of each file in turn."""
        has_news = True
        while has_news:
            has_news = False
            for tail in self.store.tails():
                has_news |= tail.read()
                await asyncio.sleep(0)  # others' turn: there may be many, and long ones
            if has_news:
                self.wake()


def make_app(store: Store, token: str) -> tuple[ASGIApp, Live]:
    """The application, and what ends its streams."""
    live = Live(store)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        store.poll()  # so the first page has all runs; what more they have comes while it is there
        following = asyncio.create_task(live.follow())
        yield
        live.close()
        following.cancel()

    app = Starlette(
        routes=[
            Route("/", _show_page),
            Route("/page/{name}", _show_part),
            Route("/", _take_post, methods=["POST"]),
            Route("/publish/epoch/end/", _take_post, methods=["POST"]),
            Route("/events", _stream),
            Route("/pictures/{run}/{name:path}", _show_picture),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _say_error, ClientDisconnect: _say_nothing},
    )
    app.router.redirect_slashes = False
    app.state.live = live
    return _guarded(app, token), live


def _guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Only below /TOKEN, which is not part of the path any more; HEADERS on every answer."""
    secret = token.encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        _, _, path = scope["path"].partition("/")
        given, slash, rest = path.partition("/")
        if not hmac.compare_digest(given.encode(errors="replace"), secret):
            # Closed, else it would have to be read for as long as a body comes.
            nothing = PlainTextResponse("not found", 404, headers={"connection": "close"})
            await nothing(scope, receive, send_guarded)
        elif not slash and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"/{token}/")(scope, receive, send_guarded)  # for relative links
        else:
            await app({**scope, "path": f"/{rest}", "root_path": ""}, receive, send_guarded)

    return guard


async def _say_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, headers=error.headers)


async def _say_nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # whoever sent it is gone


# --- The page -------------------------------------------------------------------------------------


async def _show_page(request: Request) -> Response:
    return _part("index.html")


async def _show_part(request: Request) -> Response:
    return _part(request.path_params["name"])


def _part(name: str) -> Response:
    folder = resources.files("carcls.desk.live").joinpath("page")
    part = next((part for part in folder.iterdir() if part.name == name), None)
    kind = TYPES.get(Path(name).suffix)
    if part is None or kind is None:
        raise HTTPException(404, "not found")
    return Response(part.read_bytes(), media_type=kind)


async def _show_picture(request: Request) -> Response:
    store, run = _live(request).store, request.path_params["run"]
    name = request.path_params["name"]
    tail = store.tail_of(run)
    file = tail.runs[run].pictures.get(name) if tail else None
    if tail is None or file is None:
        raise HTTPException(404, "no such picture")
    if tail.source == "posted":
        path = picture_path(store.folder, run, name)
    else:
        path = tail.path.parent / file
    real, kind = _real_picture(path, tail.path.parent)
    if not kind:
        raise HTTPException(404, "no such picture")
    return StreamingResponse(_pieces(real), media_type=kind)


def _real_picture(path: Path, folder: Path) -> tuple[Path, str]:
    """The file itself, once links are followed, and its content type.

    That is "" if it is no picture, or not inside the folder.
    """
    try:
        path = path.resolve()
        is_inside = path.is_relative_to(folder.resolve()) and path.is_file()
        if not is_inside or path.stat().st_size > PICTURE:
            return path, ""
        with path.open("rb") as file:
            start = file.read(8)
    except (OSError, ValueError, RuntimeError):  # a null byte in a name; links in a circle
        return path, ""
    return path, next((kind for sign, kind in PICTURES.items() if start.startswith(sign)), "")


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """A file's content, no faster than it is sent: many pictures need not be in memory."""
    with suppress(OSError), path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


# --- Posts ----------------------------------------------------------------------------------------


async def _take_post(request: Request) -> Response:
    live = _live(request)
    if not live.may_post():
        raise HTTPException(
            429, f"expected at most {RATE:.0f} posts a second", {"retry-after": "1"}
        )
    body = await _read_body(request)
    kind = request.headers.get("content-type", "")
    status, line = posts.take(live.store, body, kind, request.query_params.get("run", ""))
    live.wake()
    return PlainTextResponse(line, status) if line else Response(status_code=status)


async def _read_body(request: Request) -> bytes:
    """All of it, which may be longer than its head says, or come byte by byte."""
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > BODY:
                    most = f"expected at most {BODY >> 10} kB"
                    raise HTTPException(413, most, {"connection": "close"})
    except TimeoutError:
        raise HTTPException(408, "it came too slowly", {"connection": "close"}) from None
    return body


# --- Streams --------------------------------------------------------------------------------------


async def _stream(request: Request) -> Response:
    asked = [run for run in request.query_params.get("runs", "").split(",") if run]
    if len(asked) > ASKED or not all(RUN.fullmatch(run) for run in asked):
        raise HTTPException(400, f"runs: expected at most {ASKED} runs, as RUN,RUN")
    at = dict.fromkeys(asked, 0)
    last = request.headers.get("last-event-id", "")
    at |= {run: int(n) for run, n in re.findall(r"([0-9a-f]{8}):([0-9]{1,15})", last) if run in at}
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    return StreamingResponse(_tell(_live(request), at), media_type="text/event-stream")


async def _tell(live: Live, at: dict[str, int]) -> AsyncIterator[str]:
    """The stream's text; at: from where on the events of each run are told."""
    told: dict[str, int] = {}  # the version of each run's summary that was told
    summaries_at = beat_at = time.monotonic()
    yield "retry: 1000\n\n" + _summaries(_changed(live.store, told), told)
    while not live.is_closing:
        news, now = live.news, time.monotonic()  # what comes from here on is not missed
        if now >= summaries_at and (changed := _changed(live.store, told)):
            yield _summaries(changed, told)
            summaries_at = now + SUMMARIES_S
        for run in at:
            while text := _lines(live.store, run, at):
                yield text
                await asyncio.sleep(0)  # others' turn: a long run is many chunks
        if now >= beat_at:
            yield ": beat\n\n"
            beat_at = now + BEAT_S
        with suppress(TimeoutError):
            async with asyncio.timeout(SUMMARIES_S):
                await news.wait()
                await asyncio.sleep(0 if live.is_closing else GATHER_S)


def _changed(store: Store, told: dict[str, int]) -> list[Run]:
    return [run for name, run in store.runs().items() if told.get(name) != run.version]


def _summaries(runs: list[Run], told: dict[str, int]) -> str:
    told.update((run.run, run.version) for run in runs)
    shown = [run.shown(round(time.time(), 3)) for run in runs]
    return f"event: runs\ndata: {json.dumps(shown, separators=(',', ':'))}\n\n"


def _lines(store: Store, run: str, at: dict[str, int]) -> str:
    """The next chunk of a run's events, after which ``at`` is moved; "" if there is none."""
    tail = store.tail_of(run)
    while tail and at[run] != tail.ends[run]:
        try:
            lines, at[run] = tail.lines(run, at[run])
        except OSError:  # gone since
            return ""
        if lines:
            ids = ",".join(f"{name}:{offset}" for name, offset in at.items())
            data = "".join(f"data: {line}\n" for line in lines)
            return f"event: lines\nid: {ids}\n{data}\n"
    return ""


def _live(request: Request) -> Live:
    return cast(Live, request.app.state.live)
