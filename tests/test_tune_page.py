"""The page of a search: what it shows is what was found, and pictures of nothing are not drawn."""

import html
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from drawn import assert_inside, record_figures, texts
from found import found

from carcls.search import page, pictures

SOBOL = {"importance": {}, "proposer": "Sobol points, as Optuna is not installed"}
EVIL = "=<script>alert($1)</script>"


def alike(number, point):
    """Settings matter not at all, and some candidates are lucky."""
    return 1 + 0.03 * (7 * number % 11) / 11


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({"loss": alike}, ["verdict", "candidates", "importance", "losses", "agreements"]),
        ({"rungs": 1, "last": False, **SOBOL}, ["candidates"]),
        (
            {"rungs": 2, "last": False, "loss": alike, **SOBOL},
            ["candidates", "losses", "agreements"],
        ),
        # Only the base is left, which is compared with nothing.
        ({"diverged": range(1, 5), "candidates": 5, "rungs": 1, **SOBOL}, ["losses"]),
        ({"diverged": (2, 3)}, ["verdict", "candidates", "importance", "losses", "agreements"]),
    ],
    ids=["all", "one rung", "no finalists", "all diverged", "some diverged"],
)
def test_what_there_is_is_drawn_and_nothing_else(tmp_path, options, drawn):
    findings = found(tmp_path, **options)
    text = page.write(findings, tmp_path).read_text()
    assert re.findall(r'data-file="(\w+)\.png"[^>]* src="data:', text) == drawn
    table = pd.read_csv(tmp_path / "tune.csv")
    assert len(table) == sum(len(climb.outcomes) for climb in findings.climbs)
    # A row a trial in its foldable table, and no figure for what was not measured.
    trials = text[text.index("<details>") : text.index("</details>")]
    assert trials.count("<tr") == 1 + len(table)
    cells = {cell.strip() for cell in re.findall(r"<td[^>]*>([^<]*)</td>", text)}
    assert not cells & {"nan", "inf", "None"}
    assert {f"{loss:.6g}" for loss in table["log_loss"] if np.isfinite(loss)} <= cells
    # What comes first, as large as the page has it, is the verdict.
    said = f"candidate {findings.taken}" if findings.taken else "Keep"
    assert said in re.findall(r"<h1>(.*)</h1>", text)[0]
    verdict, *others = page.lines(findings)
    assert verdict == str(findings.verdict)
    assert html.escape(verdict[1:]) in text
    own = 1 - findings.training_seconds / findings.seconds
    assert f"{own:.1%}" in others[-1]
    last = findings.climbs[-1]
    finalists = last.rung.numbers if last.rung.is_last else []
    assert [int(line.split()[0]) for line in others[1 : len(finalists) + 1]] == finalists


def test_values_of_settings_are_shown_and_not_run(tmp_path):
    findings = found(tmp_path, rungs=1)
    points = {n: {**point, "augment": EVIL} for n, point in findings.points.items() if n}
    findings = replace(findings, points={0: findings.points[0], **points})
    text = page.write(findings, tmp_path).read_text()
    assert "<script>alert" not in text
    winner = findings.verdict.winner
    marked = re.findall(r'<tr class="differs"><td>(\w+)</td>', text)
    differing = [k for k, v in points[winner].items() if v != findings.points[0][k]]
    assert marked == differing and "augment" in marked
    assert text.count(html.escape(EVIL)) > len(points)  # in both tables
    assert set(pd.read_csv(tmp_path / "tune.csv")["augment"]) == {"light", f"'{EVIL}"}


def test_pictures_are_of_the_figures(tmp_path, monkeypatch):
    figures = record_figures(monkeypatch)
    space = "lr=1e-3:1e-1 mix=none,mixup:0.2+cutmix:1 weight_decay=1e-4:1e-2 hidden=16:64"
    findings = found(tmp_path, space, loss=alike, base={"lr": 1.0, "hidden": 40})
    page.write(findings, tmp_path)
    verdict, candidates, importance, losses, agreements = figures
    for figure in figures:
        assert_inside(figure)
    # The base's lr is above the range, which is logarithmic; it has no weight decay of its own.
    base = next(line for line in candidates.axes[0].lines if line.get_label() == "as they are")
    assert base.get_ydata()[[0, 2, 3]] == pytest.approx([1, pictures._AWAY, 0.5])
    rates = [float(point["lr"]) for point in findings.points.values()]
    lines = [line.get_ydata()[0] for line in candidates.axes[0].lines if len(line.get_xdata()) == 4]
    assert sorted(lines) == pytest.approx(np.log(sorted(rates)) / np.log(1e3) + 1)
    shown = sorted(x for line in verdict.axes[0].lines[1:] for x in line.get_xdata())
    change, half = findings.verdict.change, findings.verdict.half
    expected = [change, change - half, change + half, *findings.verdict.by_seed]
    assert shown == pytest.approx(sorted(expected))
    assert list(importance.axes[0].patches[-1].get_bbox().intervalx) == [0, 0.5]
    paths = [line.get_ydata().tolist() for line in losses.axes[0].lines]
    by_number = [[c.loss[n] for c in findings.climbs if n in c.loss] for n in findings.points]
    assert paths == by_number
    first = findings.climbs[0].loss.keys() & findings.climbs[1].loss
    assert {int(text) for text in texts(agreements.axes[0].texts)} == first
