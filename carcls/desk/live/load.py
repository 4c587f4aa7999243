"""``carcls monitor --load``: a server of its own under load; what is lost, how late it is shown.

The server is a process on one core. Every sender posts an event a second, every reader holds a
stream open: half of them of one run, half of eight.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from carcls.errors import InputError

SENDERS, READERS, MANY = 50, 20, 8
LAST_S = 5.0  # for what is still under way at the end
_EVENT = re.compile(rb'"id": "([0-9a-f.]+)".*?"at": ([0-9.]+)')


@dataclass
class Measured:
    """What senders and readers have seen."""

    sent: dict[str, set[str]] = field(default_factory=dict)  # ids that were acknowledged, by run
    refused: int = 0
    shown: list[set[str]] = field(default_factory=list)  # ids, by reader
    asked: list[list[str]] = field(default_factory=list)  # runs, by reader
    delays: list[float] = field(default_factory=list)  # s
    stood_still: float = 0.0  # s, at most: this process, which its own clock tells

    def lost(self) -> int:
        """Events that were acknowledged and not shown, over all readers."""
        pairs = zip(self.asked, self.shown, strict=True)
        return sum(len(self.sent[run] - shown) for asked, shown in pairs for run in asked)


def main(minutes: float, senders: int = SENDERS, readers: int = READERS) -> Measured:
    """Run the load and print what came of it."""
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as (process, address):
        print(f"{senders} runs post once a second, {readers} streams are open, {minutes:g} minutes")
        before, began = _cpu_seconds(process.pid), time.monotonic()
        measured = asyncio.run(_load(address, minutes * 60, senders, readers))
        share = (_cpu_seconds(process.pid) - before) / (time.monotonic() - began)
        memory = _peak_memory(process.pid)
    delays = sorted(measured.delays) or [float("nan")]
    late = delays[int(0.99 * (len(delays) - 1))]
    print(f"sent     {sum(map(len, measured.sent.values()))} events; {measured.refused} refused")
    print(f"shown    {len(measured.delays)} times; {measured.lost()} lost")
    print(
        f"delay    median {1000 * statistics.median(delays):.0f} ms, 99 % within "
        f"{1000 * late:.0f} ms, at most {1000 * delays[-1]:.0f} ms; "
        f"{sum(delay > 1 for delay in delays)} over a second"
    )
    print(f"server   {memory:.0f} MB at most, {share:.0%} of a core")
    print(
        f"machine  {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the measuring process "
        f"stood still for up to {1000 * measured.stood_still:.0f} ms",
        flush=True,
    )
    return measured


@contextmanager
def _server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A monitor of its own, and its address."""
    command = [sys.executable, "-m", "carcls", "monitor", "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
            assert process.stdout is not None
            line = process.stdout.readline()  # what kept it from starting is on stderr
            if not line.startswith("page "):
                raise InputError("the server to be measured has not started")
            yield process, line.split()[-1]
        finally:
            process.terminate()


async def _load(address: str, seconds: float, senders: int, readers: int) -> Measured:
    measured, runs = Measured(), [f"{number:08x}" for number in range(1, senders + 1)]
    reading = []
    for number in range(readers):
        asked = random.Random(number).sample(runs, min(len(runs), MANY if number % 2 else 1))
        measured.asked.append(asked)
        measured.shown.append(set())
        reading.append(asyncio.create_task(_read(address, measured, number)))
    reading.append(asyncio.create_task(_watch_itself(measured)))
    end = time.monotonic() + seconds
    await asyncio.gather(*(_send(address, run, end, measured) for run in runs))
    last = time.monotonic() + LAST_S
    while measured.lost() and time.monotonic() < last:
        await asyncio.sleep(0.1)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return measured


async def _send(address: str, run: str, end: float, measured: Measured) -> None:
    """Post an event a second on one connection, which is opened anew when it breaks."""
    parts, count = urlsplit(address), 0
    ids = measured.sent[run] = set()
    await asyncio.sleep(random.random())
    connection = None
    while time.monotonic() < end:
        due = time.monotonic() + 1
        count += 1
        body = json.dumps(_event(run, count)).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}"
        try:
            if connection is None:
                connection = await asyncio.open_connection(parts.hostname, parts.port)
            connection[1].write(head.encode() + b"\r\n\r\n" + body)
            reply = await connection[0].readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            reply, connection = b"", None
        if reply.startswith(b"HTTP/1.1 204"):
            ids.add(f"{run}.0000.{count}")
        else:
            measured.refused += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    if connection:
        connection[1].close()


def _event(run: str, count: int) -> dict[str, object]:
    """Of the size that an epoch's has."""
    kind = "epoch" if count > 1 else "start"
    event = {"id": f"{run}.0000.{count}", "kind": kind, "at": time.time(), "name": f"run {run}"}
    numbers = {f"value{number}": random.random() for number in range(16)}
    return {**event, "epoch": count, "val_accuracy": random.random(), **numbers}


async def _read(address: str, measured: Measured, number: int) -> None:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    asked = ",".join(measured.asked[number])
    # HTTP/1.0: the text as it is, not in chunks.
    writer.write(f"GET {parts.path}events?runs={asked} HTTP/1.0\r\n\r\n".encode())
    try:
        while line := await reader.readline():
            match = _EVENT.search(line) if line.startswith(b"data: {") else None
            if match and (ident := match[1].decode()) not in measured.shown[number]:
                measured.shown[number].add(ident)
                measured.delays.append(time.time() - float(match[2]))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _watch_itself(measured: Measured) -> None:
    """A delay in this process, or of the whole machine, is none of the server's."""
    while True:
        due = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        measured.stood_still = max(measured.stood_still, time.monotonic() - due)


def _peak_memory(pid: int) -> float:
    """MB; not a number where /proc does not say."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float("nan")


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return float("nan")
