"""An HTTP server on the loopback that records what it is sent and answers as told."""

import json
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Raw:
    """An answer that is not plain JSON with 200."""

    body: bytes
    code: int = 200
    kind: str = "application/json"
    seconds: float = 0  # to wait before it


def refusal(code: int, message: str) -> Raw:
    """As Kaggle refuses: the code twice and the words."""
    return Raw(json.dumps({"code": code, "message": message}).encode(), code)


def stream(*events: str) -> Raw:
    """A running kernel's log, as the server streams it."""
    rows = [
        json.dumps({"stream_name": "stdout", "time": n, "data": text})
        for n, text in enumerate(events)
    ]
    return Raw(
        "".join(f"data: {row}\n\n" for row in [*rows, "END_OF_LOG"]).encode(),
        kind="text/event-stream",
    )


def blob(*events: str) -> Raw:
    """The log of a kernel that has ended."""
    rows = [{"stream_name": "stdout", "time": n, "data": text} for n, text in enumerate(events)]
    return Raw(json.dumps(rows).encode(), kind="text/plain")


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here: some tests are about that."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Recorder:
    """answers: end of a path → an answer, or a list whose last one is repeated; else 404."""

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, Any] = {}
        self.seen: list[tuple[str, Any]] = []  # (end of the path, JSON or bytes)
        self.asked: list[str] = []  # paths as they were asked for, with their queries
        self.done = threading.Event()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                recorder.asked.append(self.path)
                path = urlsplit(self.path).path.removeprefix("/api/v1/")
                name = path if "/files/" in path or "stream" in path else path.rpartition("/")[2]
                recorder.answer(self, path if path in recorder.answers else name)

            do_GET = do_PUT = do_POST  # noqa: N815  # names that http.server gives

            def log_message(self, *args: object) -> None:
                """Not on the test's output."""

        self.server = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        if handler.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(handler.rfile.readline(), 16):
                content += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
        else:
            content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        is_json = "json" in handler.headers.get("Content-Type", "") and content
        self.seen.append((name, json.loads(content) if is_json else content))
        answer = self.answers.get(name, refusal(404, f"Not found: {name}"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        raw = answer if isinstance(answer, Raw) else Raw(json.dumps(answer).encode())
        self.done.wait(raw.seconds)
        handler.send_response(raw.code)
        handler.send_header("Content-Type", raw.kind)
        handler.send_header("Content-Length", str(len(raw.body)))
        handler.end_headers()
        handler.wfile.write(raw.body)

    def sent(self, name: str) -> list[Any]:
        return [content for path, content in self.seen if path == name]

    def environment(self, home: Path, user: str = "alice") -> dict[str, str]:
        """What makes the kaggle command talk to this server only, as that user ("": nobody)."""
        here = self.url
        env = {
            "HOME": str(home),
            "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        }
        env |= {"HTTP_PROXY": here, "http_proxy": here, "NO_PROXY": "", "no_proxy": ""}
        return env | ({"KAGGLE_USERNAME": user, "KAGGLE_KEY": "x"} if user else {})

    def close(self) -> None:
        self.done.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
