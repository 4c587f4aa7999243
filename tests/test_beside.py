"""The page's server beside a command: there while the command is at work, and gone with it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from carcls import spine
from carcls.data import files
from carcls.desk import cli
from carcls.desk.live import beside
from carcls.errors import InputError

EVENT = {"id": "0123abcd.00ff.1", "kind": "start", "at": 1.5, "name": "of the test"}


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """The run folder of ``carcls run``, which does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "run_folder", lambda cfg: tmp_path / "run")
    return tmp_path / "run"


def address_in(text: str) -> str:
    return re.search(r"^page +(http://127\.0\.0\.1:\S+)$", text, re.MULTILINE)[1]


@contextmanager
def asked(address: str, path: str = "") -> Iterator[http.client.HTTPResponse]:
    """Raises OSError if nobody answers there."""
    parts = urlsplit(address)
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)) as connection:
        connection.request("GET", parts.path + path)
        with connection.getresponse() as response:
            yield response


def is_there(address: str) -> bool:
    try:
        with asked(address, "events") as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("error", [None, InputError("no photos"), KeyboardInterrupt()])
def test_a_page_is_there_while_a_run_is_at_work(out, monkeypatch, capsys, error):
    seen = []

    def run(cfg):
        seen.append(address_in(capsys.readouterr().out))
        assert is_there(seen[0])
        if error:
            raise error

    monkeypatch.setattr(spine, "run", run)
    monkeypatch.setattr(beside, "_LAST_S", 0)
    code = cli.main(["run", "--data", "x", "--page"])
    assert code == {None: 0, InputError: 2, KeyboardInterrupt: 130}[error and type(error)]
    assert f"carcls monitor {out}\n" in capsys.readouterr().out
    assert not is_there(seen[0])


def test_the_last_events_reach_the_page(out, monkeypatch, capsys):
    with ExitStack() as stack:

        def run(cfg):
            address = address_in(capsys.readouterr().out)
            streams.append(stack.enter_context(asked(address, "events?runs=0123abcd")))
            out.mkdir()
            (out / "progress.jsonl").write_text(json.dumps(EVENT) + "\n")

        streams = []
        monkeypatch.setattr(spine, "run", run)
        assert cli.main(["run", "--data", "x", "--page"]) == 0
        told = streams[0].read().decode()  # the server's end is the stream's
    assert '"name":"of the test"' in told
    assert "event: lines" in told and json.dumps(EVENT) in told


def test_a_server_that_does_not_start_is_said_once_and_harms_nothing(out, monkeypatch, capsys):
    (out.parent / beside.FOLDER).touch()
    runs = []
    monkeypatch.setattr(spine, "run", runs.append)
    assert cli.main(["run", "--data", "x", "--page"]) == 0
    assert len(runs) == 1
    assert re.findall(r"^no page.*\(carcls: .*monitor", capsys.readouterr().out, re.MULTILINE)


def test_a_server_that_ends_is_said_once_and_harms_nothing(out, monkeypatch, capsys):
    servers = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **named):
            servers.append(self)
            super().__init__(*args, **named)

    def run(cfg):
        servers[0].kill()
        said, end = "", time.monotonic() + 10
        while "no page" not in said:
            assert time.monotonic() < end
            said += capsys.readouterr().out
            time.sleep(0.01)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(spine, "run", run)
    assert cli.main(["run", "--data", "x", "--page"]) == 0
    assert "no page" not in capsys.readouterr().out


def test_without_the_packages_nothing_begins(out, monkeypatch, capsys):
    for name in ("server", "serve"):
        monkeypatch.delitem(sys.modules, f"carcls.desk.live.{name}", raising=False)
        monkeypatch.delattr(f"carcls.desk.live.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    runs = []
    monkeypatch.setattr(spine, "run", runs.append)
    assert cli.main(["run", "--data", "x", "--page"]) == 2
    assert "make .venv/monitor" in capsys.readouterr().err and not runs


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_server_does_not_outlive_a_command_that_is_killed(tmp_path):
    code = "import pathlib, time; from carcls.desk.live import beside\n"
    code += "with beside.page([], pathlib.Path()): time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        address = address_in(process.stdout.readline().decode())
        assert is_there(address)
        process.kill()
    end = time.monotonic() + 10
    while is_there(address):
        assert time.monotonic() < end
        time.sleep(0.05)
