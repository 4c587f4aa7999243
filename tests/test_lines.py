"""Events out of a kernel's log: whole, cut and repeated ones, and what only looks like one."""

import json
import time
import zlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from carcls.desk.live.lines import Lines
from carcls.train.events import MARK, log_line


def event(number: int, **values) -> dict:
    return {"id": f"0123abcd.00ff.{number}", "kind": "phase", "at": 1.5, **values}


def marked(text: str, length: int | None = None, checksum: int | None = None) -> str:
    """A marked line, right or wrong."""
    crc = zlib.crc32(text.encode()) if checksum is None else checksum
    return f"{MARK} {len(text) if length is None else length} {crc:08x} {text}"


def read(*lines: str) -> tuple[list[str], list[dict]]:
    """What a log shows, and its events."""
    found, shown, events = Lines(), [], []
    for line in lines:
        texts, more = found.feed(line)
        shown += texts
        events += more
    return shown + found.end(), events


A, B = event(1, name="the first\n~event, ü"), event(2, name="and\tanother")


def test_events_are_taken_out_of_what_stands_around_them():
    lines = [
        "\x1b[32mloss 0.5 \x1b[0m" + log_line(A) + " after",
        "",
        f"  {log_line(A)}{log_line(B)} ",
        f"50%\r{log_line(event(3))}one{log_line(event(4))}two",
        "end",
    ]
    shown, events = read(*lines)
    assert events == [A, B, event(3), event(4)]
    assert shown == ["\x1b[32mloss 0.5 \x1b[0m after", "", "50%\ronetwo", "end"]


def test_an_event_may_be_cut_anywhere_and_have_other_output_between():
    line = log_line(A)
    for cut in range(1, len(line)):
        for between in ([], ["W0000 a warning", "", "~/x"], [f"{MARK} 12 by chance"]):
            lines = ["one", f"glued {line[:cut]}", *between, f"{line[cut:]}more", "two"]
            assert read(*lines) == (["one", "glued ", *between, "more", "two"], [A]), cut
    assert read("~", "one", line[:1], line[1:]) == (["~", "one"], [A])  # the nearest
    two = log_line(B)
    assert read(line[:30], two[:20], two[20:] + line[30:]) == ([line[:30], line[30:]], [B])
    parts = [line[:3], line[3:9], line[9:30], line[30:]]
    assert read(*parts, log_line(B)) == ([], [A, B])


@pytest.mark.parametrize(
    "line",
    [
        MARK,
        f"{MARK} of the year",
        marked('{"id":1}'),
        marked(json.dumps(event(1)), checksum=1),
        marked(json.dumps(event(1)), length=99_999),
        marked("[" * 60_000),
        marked(json.dumps(event(1))[:-1]),
        marked("3"),
        marked(json.dumps({"id": ["0123abcd.00ff.1"], "kind": "phase"})),
        marked(json.dumps({"id": "../../x.00ff.1", "kind": "phase"})),
        marked(json.dumps({"id": "0123abcd.00ff.1", "kind": 3})),
        marked(json.dumps(event(1, name="ü"), ensure_ascii=False)),
        marked(json.dumps(event(1))).replace("phase", "phāse"),
        f"{MARK} 60000 00000000 {{",
    ],
)
def test_what_is_no_event_is_shown_as_it_came_and_hides_none(line):
    assert read("a", line, log_line(A), "b") == (["a", line, "b"], [A])
    assert read("a", line, "b") == (["a", line, "b"], [])
    assert read(line + log_line(A)) == ([line], [A])


def test_what_never_becomes_whole_is_given_up():
    """Its lines are shown without waiting for the log's end, and what comes after it is found."""
    found = Lines()
    begun = log_line(A)[:-1]
    shown = [text for line in (begun, *map(str, range(50))) for text in found.feed(line)[0]]
    assert shown[0] == begun and shown[1:] == [str(n) for n in range(50)]
    assert found.feed(log_line(B)) == ([], [B])
    far = log_line(event(9, name="x" * 999))[:40]
    lines = [far, *map(str, range(14)), log_line(A)[:30], "x", log_line(A)[30:]]
    assert [e for line in lines for e in found.feed(line)[1]] == [A]
    assert found.feed(log_line(A)[:20]) == ([], [])
    assert found.feed("x" * 70_000 + log_line(event(3)))[1] == [event(3)]
    assert found.end() == []


def test_a_log_that_comes_again_repeats_nothing():
    found = Lines()
    assert found.feed(log_line(A))[1] == [A]
    assert found.feed(log_line(B)[:30]) == ([], [])
    found.restart()
    lines = ["x", log_line(A), log_line(B)[:40], log_line(B)[40:], log_line(B)]
    results = [found.feed(line) for line in lines]
    assert [text for texts, _ in results for text in texts] == ["x"]
    assert [e for _, events in results for e in events] == [B]


def test_memory_and_time_are_bounded_whatever_comes():
    found = Lines()
    began = time.perf_counter()
    for line in [f"{MARK} 60000 00000000 " * 2000] * 40 + ["~" * 60_000] * 40 + ["~ev"] * 200:
        found.feed(line)
        held = sum(map(len, found._held.values())) + sum(len(way.text) for way in found._ways)
        assert held < 40e6 and len(found._held) <= 32
    assert time.perf_counter() - began < 30
    assert found.feed(log_line(A))[1] == [A]


noise = st.one_of(
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        [
            "~",
            "~ev",
            MARK,
            f"{MARK} 5",
            f"{MARK} 5 0000",
            f"{MARK} 40 deadbeef {{",
            "nt 5",
            "\r 50%",
        ]
    ),
)
values = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.text(max_size=40), st.floats(allow_nan=False, allow_infinity=False), st.none()),
    max_size=4,
)


@st.composite
def logs(draw) -> tuple[list[str], list[dict], list[str]]:
    """A log's lines, its events, and what it shows."""
    lines, events, shown = [], [], []
    for _ in range(draw(st.integers(0, 10))):
        kind = draw(st.sampled_from(["noise", "event", "cut", "again"]))
        if kind == "noise":
            shown.append(draw(noise))
            lines.append(shown[-1])
        elif kind == "again":
            lines += [log_line(e) for e in events[-3:]]
        else:
            events.append({**draw(values), **event(len(events) + 1)})
            parts, between = [log_line(events[-1])], []
            for _ in range(draw(st.integers(1, 2)) if kind == "cut" else 0):
                at = draw(st.integers(1, len(parts[-1]) - 1)) if len(parts[-1]) > 1 else 1
                parts[-1:] = [parts[-1][:at], parts[-1][at:]]
                between.append(draw(st.lists(noise, max_size=4)))
            # Nobody could tell which of two lines that say the same is the event's.
            inner = [text for texts in between for text in texts]
            other = [*shown, *inner]
            assume(not any(text.startswith(part) for text in other for part in parts))
            assume(len(parts) == 1 or len(parts[0]) > 24 or not any("~" in text for text in other))
            before, behind = draw(noise.filter(lambda text: "~" not in text)), draw(noise)
            around = [before, behind] if between else [before + behind]
            around = [text if text.strip() else None for text in around]
            shown += [around[0], *inner, *around[1:]]
            shown = [text for text in shown if text is not None]
            parts[0] = before + parts[0]
            parts[-1] += behind
            for part, texts in zip(parts, [*between, []], strict=True):
                lines += [part, *texts]
    return lines, events, shown


@settings(max_examples=150, deadline=None)
@given(logs())
def test_events_come_once_and_in_order_and_all_else_is_shown(log):
    lines, events, shown = log
    assert read(*lines) == (shown, events)
