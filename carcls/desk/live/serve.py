"""``carcls monitor``: the server as a process."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from carcls import disk
from carcls.desk.live.server import Live, make_app
from carcls.desk.live.store import NAME, Store
from carcls.errors import ConfigError

import uvicorn  # isort: skip  (after server, which says what to do without it)
from starlette.types import ASGIApp  # isort: skip
from uvicorn.protocols.http.h11_impl import H11Protocol  # isort: skip

CONNECTIONS = 256
HEAD_S = 10.0  # for the head of a request
LAST_S = 0.3  # for answers that are under way when it ends
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(followed: Sequence[str], folder: str, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises ConfigError if the port or the folder is no good."""
    place = disk.user_path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        token = read_token(place)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"--folder {folder}: expected a folder to write to; {why}") from None
    listening = _listen(host, port)
    app, live = make_app(Store(place, [disk.user_path(path) for path in followed]), token)
    server = _Server(_config(app), live)
    for number in (signal.SIGINT, signal.SIGTERM):  # from now on, not only once it runs
        signal.signal(number, server.handle_exit)
    _say(place, followed, host, f"{_address(listening, host)}/{token}")
    server.run(sockets=[listening])


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,
    )


def read_token(folder: Path) -> str:
    """The folder's token, which is made if there is none. Raises ConfigError if it is no token."""
    path = folder / "token"
    part = folder / f"{disk.PART}token.{secrets.token_hex(8)}"
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(opened, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        with suppress(FileExistsError):  # another server's, or of an earlier time
            os.link(part, path)
    finally:
        part.unlink()
    path.chmod(0o600)
    token = path.read_text(errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,100}", token):
        raise ConfigError(
            f"{path}: expected 16 or more letters and digits; delete it for a new one"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            told = f"port {port} is in use, perhaps by another monitor; "
            told += "end that, or give another: --port 0 takes any that is free"
            raise ConfigError(told) from None
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from None


def _address(listening: socket.socket, host: str) -> str:
    # Whoever listens at all addresses is reached at this machine's own.
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{listening.getsockname()[1]}"


def _say(folder: Path, followed: Sequence[str], host: str, address: str) -> None:
    print(f"page     {address}/", flush=True)
    print(f'post     make run SET="monitor_url={address}"')
    print(f"         or of any Keras script: keras.callbacks.RemoteMonitor(root={address!r})")
    print(f"kept     {folder}: a folder a run, which may be deleted")
    for path in followed:
        is_there = (disk.user_path(path) / NAME).is_file()
        print(f"follows  {path}" + (f": no {NAME} there yet" if not is_there else ""))
    if host not in LOOPBACK:
        print(
            f"warning: --host {host}: other machines reach it. Nothing is encrypted, and whoever "
            "has the address reads every run and posts events"
        )


class _Server(uvicorn.Server):
    """Ends with its streams open: they are closed at once, and nobody is waited for for long."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._live.close()
        asyncio.get_running_loop().call_later(LAST_S, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(H11Protocol):
    """Cuts off whoever takes long to send the head of a request, byte by byte or not at all."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
