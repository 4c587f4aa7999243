"""The live page in a real browser, against the real server; skipped where there is no Chromium."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import live_events as live
import pytest
from live_monitor import CURVES, Monitor

from carcls.desk import live as live_package

PAGE = Path(live_package.__file__).parent / "page"
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"  # a run's name
LONG = "a_name_without_a_space_" * 5  # another's
ERROR = "InputError: <i>no photo</i>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    if not browser.find():
        pytest.skip("there is no Chromium: none on PATH, and CHROMIUM is not set")
    with browser.browser() as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """Of the runs of several tests."""
    root = tmp_path_factory.mktemp("shared")
    failed = live.failed(live.run_events("3" * 8, HTML, members=("<b>one</b>",))[:40], ERROR)
    runs = [
        recent(live.run_events("0" * 8, "whole")),
        recent(live.run_events("1" * 8, "silent one")[:27], 3590),
        recent(live.run_events("2" * 8, "ended one"), 7200),
        recent(failed),
        recent(live.run_events("4" * 8, "second", seed=1)),
        recent(live.run_events("5" * 8, LONG, members=(LONG, "member b"))),
    ]
    folders = [live.write(root / str(n), events) for n, events in enumerate(runs)]
    made = Monitor(root / "monitor", folders)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    """Of one run."""
    made = Monitor(tmp_path / "monitor", [tmp_path / "run"])
    made.start()
    yield made
    made.stop()


def recent(events: list[dict[str, Any]], seconds: float = 1.0) -> list[dict[str, Any]]:
    """The events, moved in time: the last one was so many seconds ago."""
    passed = time.time() - seconds - events[-1]["at"]
    return [{**event, "at": event["at"] + passed} for event in events]


def shows(text: str) -> str:
    """The condition that the page shows a text."""
    return f"document.body.innerText.includes({json.dumps(text)})"


# How many pixels of a chart are of the first curve's colour.
COLOURED = """(() => {
  const canvas = document.querySelector('#measures canvas');
  if (!canvas) return 0;
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let n = 0; n < data.length; n += 4)
    count += data[n] < 40 && Math.abs(data[n + 1] - 92) < 20 && data[n + 2] > 150;
  return count;
})()"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_events_become_curves_and_show_within_a_second(
    chromium: browser.Browser, monitor: Monitor
) -> None:
    chromium.look(1280, 900)
    chromium.open(monitor.url)
    chromium.wait(shows("No run yet"))
    events = recent(live.run_events())
    begun, trained, more = events[:4], events[4:25], events[25:27]
    live.write(monitor.runs[0], begun)
    chromium.wait("document.querySelector('#measures canvas')")
    assert chromium.evaluate(COLOURED) == 0
    assert chromium.evaluate("document.getElementById('name').textContent") == "good"

    live.write(monitor.runs[0], trained)
    chromium.wait(f"{COLOURED} > 200")
    assert not chromium.evaluate(shows("11 of 14 epochs"))
    live.write(monitor.runs[0], more)
    chromium.wait(shows("11 of 14 epochs"), 1.0)
    assert not chromium.errors


def test_what_was_missed_is_filled_in_and_nothing_twice(
    chromium: browser.Browser, monitor: Monitor
) -> None:
    events = recent(live.run_events())
    live.write(monitor.runs[0], events[:30])
    chromium.look(1280, 900)
    chromium.open(monitor.url)
    chromium.wait(f"{COLOURED} > 200")
    monitor.stop()
    chromium.wait(shows("No connection"))
    assert chromium.evaluate(COLOURED) > 200, "the page keeps what it has"
    live.write(monitor.runs[0], events[30:])
    monitor.start()
    chromium.wait(shows("average of 2 members"))
    chromium.wait(f"!{shows('No connection')}")
    for items, count in (("verdicts", 5), ("plan", 2), ("runs", 1), ("pictures", 3)):
        assert chromium.evaluate(f"document.getElementById('{items}').children.length") == count


def test_the_whole_run_is_told(chromium: browser.Browser, shared: Monitor) -> None:
    chromium.look(1280, 900)
    chromium.open(f"{shared.url}#{'0' * 8}")
    chromium.wait(shows("Warning: class 7"))  # of the last event
    expected = ["ended", "member a", "member b", "average of 2 members", "Pseudo-labels"]
    for text in [*expected, "refused\n\n12 of 300", "0.8508", "Classes taken for each"]:
        assert chromium.evaluate(shows(text)), text
    chromium.evaluate("document.querySelector('#pictures').scrollIntoView()")
    chromium.wait("[...document.images].every(image => image.naturalWidth === 720)")
    chromium.evaluate("document.querySelector('#pictures button').click()")
    assert chromium.evaluate("document.querySelector('dialog').open")
    chromium.evaluate("document.querySelector('dialog button').click()")
    # A network of which nobody wants to see the curve.
    assert chromium.evaluate(CURVES) == 2
    chromium.evaluate("document.querySelector('#plan input').click()")
    chromium.wait(f"{CURVES} === 1")
    assert not chromium.errors


def test_a_run_that_says_nothing_has_a_badge_and_one_that_has_ended_none(
    chromium: browser.Browser, shared: Monitor
) -> None:
    chromium.look(1280, 900)
    chromium.open(f"{shared.url}#{'1' * 8}")
    chromium.wait(shows("nothing has come for 60 min"))
    button = "[...document.querySelectorAll('#runs button')].find(b => b.innerText === 'ended one')"
    chromium.evaluate(f"{button}.click()")
    chromium.wait("document.getElementById('name').textContent === 'ended one'")
    assert not chromium.evaluate(shows("nothing has come"))


def test_a_run_that_starts_is_shown_unless_another_works_or_was_chosen(
    chromium: browser.Browser, tmp_path: Path
) -> None:
    named = "document.getElementById('name').textContent"
    monitor = Monitor(tmp_path / "monitor", [tmp_path / str(n) for n in range(4)])
    events = [live.run_events(f"{n}" * 8, f"run {n}") for n in range(4)]
    live.write(monitor.runs[0], recent(events[0], 60))  # it has ended
    monitor.start()
    try:
        chromium.open(monitor.url)
        chromium.wait(f"{named} === 'run 0'")
        live.write(monitor.runs[1], recent(events[1][:9]))
        chromium.wait(f"{named} === 'run 1'")
        live.write(monitor.runs[2], recent(events[2][:1], 0))
        chromium.wait("document.querySelectorAll('#runs li').length === 3")
        live.write(monitor.runs[1], recent(events[1][9:], 0))
        chromium.wait("document.getElementById('state').textContent === 'ended'")
        assert chromium.evaluate(named) == "run 1", "its end is seen"
        chromium.evaluate("document.querySelector('#runs li:last-child button').click()")
        chromium.wait(f"{named} === 'run 0'")
        live.write(monitor.runs[3], recent(events[3][:1], 0))
        chromium.wait("document.querySelectorAll('#runs li').length === 4")
        assert chromium.evaluate(named) == "run 0", "as somebody has chosen"
    finally:
        monitor.stop()


def test_several_runs_lie_over_each_other_and_names_are_text(
    chromium: browser.Browser, shared: Monitor
) -> None:
    chromium.look(1280, 900)
    chromium.open(f"{shared.url}#{'3' * 8}")
    chromium.wait(f"{CURVES} === 1")
    assert chromium.evaluate("document.getElementById('name').textContent") == HTML
    assert ERROR in chromium.evaluate("document.getElementById('error').innerText")
    assert chromium.evaluate(shows("<b>one</b>"))
    box = "document.querySelector('[aria-label=\"Overlay second\"]')"
    chromium.evaluate(f"{box}.click()")
    chromium.wait(f"{CURVES} === 2")
    shown = chromium.evaluate(
        "[...document.querySelectorAll('#runs li, #measures .chart:first-child tr')]"
        ".filter(each => each.dataset.colour).map(each => each.dataset.colour).sort().join('')"
    )
    assert shown == "0011", "each in its own colour, the same in the list and below the curves"
    assert chromium.evaluate("document.querySelectorAll('script, i, [onerror]').length") == 1
    assert not chromium.errors


def test_every_width_and_both_colour_schemes(chromium: browser.Browser, shared: Monitor) -> None:
    chromium.look(1280, 900)
    chromium.open(f"{shared.url}#{'5' * 8}")
    chromium.wait(f"{COLOURED} > 200")
    assert chromium.evaluate(OVERFLOW) == 0
    light = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    chromium.look(1280, 900, "dark")
    chromium.wait(f"{COLOURED} === 0")  # drawn anew in another blue
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") != light
    width = "document.querySelector('#measures canvas').clientWidth"
    chromium.look(390, 844)
    chromium.wait(f"{width} < 360")
    assert chromium.evaluate(OVERFLOW) == 0
    chromium.look(1920, 1080)
    chromium.wait(f"{width} > 500")
    assert chromium.evaluate(OVERFLOW) == 0
    assert not chromium.errors


# What is known of a run after some events.
TAKEN = """(async () => {
  const model = await import('./page/model.js');
  const run = model.newRun('0a1b2c3d');
  const taken = EVENTS.map(event => model.take(run, event));
  const network = run.networks.get(NAME) ?? [...run.networks.values()][0];
  return {taken, xs: network?.rows.map(row => row.x), best: model.bestOf(run)?.row.x,
    planned: network && model.epochsPlanned(network), sizes: network && model.sizesOf(network),
    progress: network && model.progressOf(network),
    state: network && model.stateOf(run, network), error: run.error};
})()"""


def taken(chromium: browser.Browser, events: list[Any], network: str = "") -> dict[str, Any]:
    """What is known of a run and a network of it, the first one unless another is named."""
    text = TAKEN.replace("EVENTS", json.dumps(events)).replace("NAME", json.dumps(network))
    found = chromium.evaluate(text)
    assert isinstance(found, dict)
    return found


def test_what_is_known_of_a_run(chromium: browser.Browser, shared: Monitor) -> None:
    chromium.open(shared.url)
    events = live.run_events(members=("member a",))
    epochs = [event for event in events if event["kind"] == "epoch"]
    known = taken(chromium, [events[0], *epochs[:8], epochs[7]])
    assert known["taken"] == [*[True] * 9, False], "none counts twice"
    assert known["xs"] == list(range(1, 9)), "epochs go on through the stages"
    assert known["planned"] == 14
    ends = [(size["from"], size["to"], size["label"]) for size in known["sizes"]]
    assert ends == [(0, 6, "64×96"), (6, 14, "96×128")]
    assert known["state"] == "running"
    # Stopped early at the first size: what comes at the second begins there.
    known = taken(chromium, [events[0], *epochs[:4], *epochs[6:8]])
    assert known["xs"] == [1, 2, 3, 4, 5, 6]
    assert known["planned"] == 12
    # A run that was killed and goes on from an earlier epoch.
    again = [{**event, "id": f"{event['id']}0000"} for event in epochs[5:7]]
    known = taken(chromium, [events[0], *epochs[:9], *again])
    assert known["xs"] == list(range(1, 8))
    # One that goes on in its second stage, or with a whole network, before a page that is new.
    known = taken(chromium, [events[0], *epochs[7:9]])
    assert (known["xs"], known["planned"]) == ([8, 9], 14)
    views = next(e for e in events if (e["kind"], e.get("of")) == ("verdict", "views"))
    assert taken(chromium, [events[0], views])["state"] == "done before"
    # A refit goes on from its member's last epoch.
    refit = [
        {**epochs[0], "id": f"0a1b2c3d.0000.{n}", "network": "member a, refit", "epoch": n}
        for n in (1, 2)
    ]
    refit = [{**row, "stages": 1, "epochs": 3, "height": 96, "width": 128} for row in refit]
    known = taken(chromium, [events[0], *epochs, *refit], network="member a, refit")
    assert (known["xs"], known["planned"]) == ([15, 16], 17)
    assert known["progress"] == {"done": 2, "planned": 3}
    assert [(size["from"], size["to"]) for size in known["sizes"]] == [(14, 16)]
    # What Keras posts has neither a plan nor a word on which epoch is best.
    keras = [{"epoch": n + 1, "loss": 1, "val_loss": loss} for n, loss in enumerate((3, 1, 2))]
    keras = [{**row, "id": f"0a1b2c3d.0000.{row['epoch']}", "kind": "epoch"} for row in keras]
    known = taken(chromium, keras)
    assert (known["xs"], known["best"], known["planned"]) == ([1, 2, 3], 2, 0)
    # A search tells of steps, and then which network is trained.
    step = {"id": "0a1b2c3d.0000.1", "kind": "step", "network": "trial 1"}
    tuned = {"id": "0a1b2c3d.0000.2", "kind": "tuned"}
    tuned["networks"] = [{"name": "member b", "stages": [[32, 48, 5]]}]
    known = taken(chromium, [events[0], step, tuned])
    assert (known["planned"], known["state"]) == (5, "to come")
    # A failure, and then another session.
    over = [*live.failed(events[:1], "Stopped"), {**events[0], "id": "0a1b2c3d.ffff.1"}]
    assert taken(chromium, over[:2])["error"] == "Stopped"
    assert taken(chromium, over)["error"] == ""


def test_events_of_anybody_do_not_stop_the_page(
    chromium: browser.Browser, monitor: Monitor
) -> None:
    values = [None, -1, 1e300, "x" * 300, [[]], [None], {"a": {}}, True, "__proto__", "\ud800"]
    values += [{"toString": 1}, [{"toString": 1}], [[64, 96, 1e300]]]  # what is no text at all
    kinds: list[Any] = [
        "start",
        "phase",
        "step",
        "epoch",
        "early_stop",
        "submission",
        "verdict",
        "tuned",
    ]
    kinds += ["picture", "failed", "end", "constructor", {"toString": 1}]
    good = live.run_events("6" * 8, members=("member a",))
    keys = {key for event in good for key in event} - {"id", "kind", "at"}
    odd = [
        {"kind": kind, "at": good[0]["at"], **dict.fromkeys(keys, value)}
        for value in values
        for kind in kinds
    ]
    numbered = [{**event, "id": f"{'6' * 8}.0000.{n + 1}"} for n, event in enumerate(odd)]
    live.write(monitor.runs[0], recent(good))
    with (monitor.runs[0] / "progress.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in [*numbered, *again(good)])
    chromium.look(390, 844)
    chromium.open(monitor.url)
    chromium.wait(shows("Warning: class 7"))
    assert chromium.evaluate(OVERFLOW) == 0
    # Pictures that odd events name are not there; nothing else went wrong.
    assert not [error for error in chromium.errors if "/pictures/" not in error]


def again(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, of another session."""
    return [{**event, "id": event["id"].replace(".6666.", ".7777.")} for event in recent(events)]


def test_what_is_of_others_is_unchanged() -> None:
    sums = {
        "uplot.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
        "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        "uplot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    }
    found = {name: hashlib.sha256((PAGE / name).read_bytes()).hexdigest() for name in sums}
    assert found == sums


def test_nothing_comes_from_elsewhere_and_no_text_is_read_as_html() -> None:
    own = [path for path in PAGE.iterdir() if not path.name.startswith("uplot")]
    words = "innerHTML outerHTML insertAdjacentHTML document.write eval( @import style= //cdn"
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words.split() if word in text], path.name
        assert len(text.splitlines()) <= 350, path.name
        assert max(map(len, text.splitlines())) <= 100 or path.suffix == ".svg", path.name
