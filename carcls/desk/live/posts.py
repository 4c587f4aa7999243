"""What is posted to the monitor: events of ours, and what anybody's Keras RemoteMonitor sends."""

from __future__ import annotations

import base64
import errno
import io
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

from carcls.desk.live.store import Full, Store, keep_picture, parse, run_of
from carcls.desk.live.summary import number, text

PIXELS = 4_000_000  # of a posted picture
_SCAN = b"\xff\xda"  # begins a scan of a JPEG
SESSION = secrets.token_hex(2)  # of the ids that this process gives
KERAS = "keras"  # the identity of runs that were given theirs here


def take(store: Store, body: bytes, kind: str, name: str) -> tuple[int, str]:
    """Store what a request brought; its HTTP status, and a line that says what is wrong.

    kind: the content type; name: of a script whose events have no ids.
    """
    try:
        event = parse(_field(body) if "form" in kind else body)
        if run_of(event):
            _store_event(store, event)
        else:
            _store_epoch(store, event, text(name))
    except Full as error:
        return 507, str(error)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return 507 if is_full else 503, f"it cannot be written: {error.strerror}"
    except ValueError as error:
        # Its own words, but for what a parser says of a payload.
        return 400, f"expected an event as a JSON object: {_first_line(error)}"
    return 204, ""


def _first_line(error: ValueError) -> str:
    return str(error).splitlines()[0][:200].encode("ascii", "replace").decode()


def _field(body: bytes) -> bytes | str:
    """The form field ``data``, else the body: curl says "form" of whatever it sends."""
    fields = parse_qs(body.decode(), errors="strict", max_num_fields=20)
    return fields["data"][0] if "data" in fields else body


def _store_event(store: Store, event: dict[str, Any]) -> None:
    if not isinstance(event.get("kind"), str):
        raise ValueError("kind is no text")
    jpeg = event.pop("jpeg", None)
    if jpeg is not None and event["kind"] == "picture":
        keep_picture(store.folder, run_of(event), text(event.get("name")), _decoded(jpeg))
    store.add(event)


def _decoded(jpeg: Any) -> bytes:
    """The bytes of a JPEG. Raises ValueError if it is none, or a large one."""
    from PIL import Image

    content = base64.b64decode(jpeg, validate=True) if isinstance(jpeg, str) else b""
    if not content.startswith(b"\xff\xd8\xff"):
        raise ValueError("jpeg is no JPEG in base64")
    if content.count(_SCAN) > 1:  # a thousand short ones, each through all pixels, take seconds
        raise ValueError("jpeg has more than one scan; expected a baseline JPEG")
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"jpeg has more than {PIXELS:,} pixels")
            image.load()
    except ValueError:
        raise
    except Exception as error:  # what a broken file makes of Pillow is not one kind of error
        raise ValueError(f"jpeg cannot be decoded: {type(error).__name__}") from None
    return content


def _store_epoch(store: Store, values: dict[str, Any], name: str) -> None:
    """An epoch of a script with Keras's RemoteMonitor: {"epoch": from 0, "loss": …, …}."""
    epoch = number(values.get("epoch"))
    if epoch is None or epoch < 0 or epoch % 1:
        raise ValueError("it has neither an id of ours nor an epoch from 0")
    name, now = name or KERAS, round(time.time(), 3)
    known = store.newest_posted(KERAS, name)
    if known and known.epoch < epoch + 1:
        run, count = known.run, known.highest
    else:
        run, count = secrets.token_hex(4), 1
        start = {"id": f"{run}.{SESSION}.1", "kind": "start", "at": now}
        store.add({**start, "identity": KERAS, "name": name})
    ours = {"id": f"{run}.{SESSION}.{count + 1}", "kind": "epoch", "at": now}
    store.add({**values, **ours, "epoch": int(epoch) + 1})
