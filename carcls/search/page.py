"""tune.csv, tune.html and the log's last lines: what a search has found, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import disk
from carcls.data.labels import spreadsheet_safe
from carcls.report import parts
from carcls.search import pictures
from carcls.search.book import BASE, show
from carcls.search.findings import Findings
from carcls.search.trial import Outcome

FEW = 30  # trials: with fewer, which setting mattered is a guess
_SHOWN = {  # columns of the table of finalists, as people read them
    "log_loss": "log-loss (choosing)",
    "apart_log_loss": "log-loss (apart)",
    "apart_accuracy": "accuracy (apart)",
}

_PAGE = """{% extends "base" %}
{% block title %}carcls tune{% endblock %}
{% block style %}
figure { overflow: auto; margin: 0.5em 0 }
.wide img { max-width: max(100%, 66em) }
.differs { background: var(--loud); color: var(--loud-text); font-weight: bold }
.settings :first-child { text-align: left }
{% endblock %}
{% block main %}
<h1>{{ "Take the settings of candidate %d"|format(f.taken) if f.taken
       else "Keep the settings as they are" }}</h1>
<p>{{ verdict }}.</p>
{% if f.verdict.winner %}
{{ picture("verdict") }}

<h2>The settings found</h2>
<div class="wide settings" tabindex="0" role="group" aria-label="Settings"><table><tr>
<th scope="col">setting</th><th scope="col">as they are</th>
<th scope="col">candidate {{ f.verdict.winner }}</th></tr>
{% for name, value in f.points[f.verdict.winner].items() %}{% set was = f.points[0][name] %}
<tr{% if value != was %} class="differs"{% endif %}><td>{{ name }}</td>
<td>{{ was or "not set" }}</td><td>{{ value or "not set" }}</td></tr>
{% endfor %}</table></div>
<p>What differs is marked. {{ "" if f.taken else "These settings are not recommended." }}</p>
<p>The last rung trained each of these anew, with {{ finalists.seeds.max() }} seed{{
"" if finalists.seeds.max() == 1 else "s" }}; figures are means over the seeds. The photos that
choose have chosen the winner, so their log-loss flatters it; those kept apart have not. How much a
seed changes is told by all that ended two.</p>
{{ table(finalists, "Candidates of the last rung", wrapped=True) }}
{% endif %}

<h2>How the search went</h2>
<p>{{ time }} Candidates were proposed by {{ f.proposer }}; candidate 0 is the settings as they
are.</p>
{{ table(rungs, "Rungs") }}
<details><summary>All {{ trials|length }} trials, and why candidates stayed behind</summary>
{{ table(trials, "Trials", wrapped=True, digits=6) }}</details>

<h2>The candidates</h2>
{{ picture("candidates") }}

<h2>Which setting mattered</h2>
{{ picture("importance") }}
{% if f.importance and measured < few %}<p><b>Only {{ measured }} trials</b> tell this: with fewer
than about {{ few }} the order of the settings may be chance.</p>
{% endif %}

<h2>Losses by rung</h2>
{{ picture("losses") }}

<h2>Did small sizes predict large ones?</h2>
{% for sentence in agreements %}<p>{{ sentence }}</p>
{% endfor %}
{{ picture("agreements") }}

<details><summary>All settings as they are</summary>
<pre tabindex="0">{{ f.book.base.model_dump_json(indent=2) }}</pre></details>
{% endblock %}
"""


def write(findings: Findings, out: Path) -> Path:
    """Write OUT/tune.csv, a row a trial, and OUT/tune.html, which holds all; returns its path."""
    table = findings.table()
    disk.write_atomic(out / "tune.csv", spreadsheet_safe(table).to_csv(index=False))
    verdict = str(findings.verdict)
    content = {
        "f": findings,
        "verdict": verdict[:1].upper() + verdict[1:],
        "finalists": _finalists(findings),
        "rungs": _rungs(findings),
        "trials": table,
        "time": _time(findings),
        "agreements": _agreements(findings),
        "measured": len(findings.climbs[0].loss),
        "few": FEW,
    }
    with tempfile.TemporaryDirectory() as folder:

        def picture(name: str) -> Markup:
            path = Path(folder) / f"{name}.png"
            draw, caption = pictures.DRAWN[name]
            nothing = draw(findings, path)
            return Markup("<p>{}</p>").format(nothing) if nothing else parts.figure(path, caption)

        text = parts.render(_PAGE, **content, picture=picture)
    disk.write_atomic(out / "tune.html", text)
    return out / "tune.html"


def lines(findings: Findings) -> list[str]:
    """What the log says of it at the end: the verdict first."""
    finalists = _finalists(findings)
    rows = [] if finalists.empty else finalists.to_string(index=False).splitlines()
    return [str(findings.verdict), *rows, *_agreements(findings), _time(findings)]


def _finalists(f: Findings) -> pd.DataFrame:
    """A row a candidate of the last rung: means over its seeds; empty if none was reached."""
    if not f.climbs[-1].rung.is_last:
        return pd.DataFrame()
    trials = f.table().replace(np.inf, np.nan)  # of a training that diverged
    of = trials[trials["rung"] == len(f.climbs)].groupby("candidate", sort=False)
    rows = of[list(_SHOWN)].mean().map("{:.4f}".format).rename(columns=_SHOWN).reset_index()
    rows.insert(1, "seeds", of["log_loss"].count().to_numpy())
    rows["differs in"] = [_differences(f, number) for number in rows["candidate"]]
    return rows


def _differences(f: Findings, number: int) -> str:
    if number == BASE:
        return "settings as they are"
    changed = set(f.points[number].items()) - set(f.points[BASE].items())
    return " ".join(f"{k}={v}" for k, v in f.points[number].items() if (k, v) in changed)


def _rungs(f: Findings) -> pd.DataFrame:
    rows = []
    for number, climb in enumerate(f.climbs, 1):
        ended = climb.outcomes.values()
        rows.append(
            {
                "rung": f"{number}, the last" if climb.rung.is_last else number,
                "height × width": show(climb.rung.size),
                "epochs": climb.rung.epochs,
                "candidates": len(climb.rung.numbers),
                "trials": len(ended),
                "diverged": sum(bool(outcome.diverged) for outcome in ended),
                "seconds": f"{_seconds(ended):,.0f}",
                "lowest log-loss": f"{min(climb.loss.values(), default=np.nan):.4f}",
            }
        )
    return pd.DataFrame(rows)


def _seconds(outcomes: Iterable[Outcome]) -> float:
    return sum(outcome.seconds for outcome in outcomes)


def _agreements(f: Findings) -> list[str]:
    """A sentence for each rung and the next one, with what it cost where it told nothing."""
    found = []
    for climb, (small, large, agreement) in zip(f.climbs, f.agreements(), strict=False):
        told = str(agreement) if agreement.n > 1 else "cannot be told: too few were at both"
        if not agreement.predicts:
            told += f"; yet the smaller size cost {_seconds(climb.outcomes.values()):,.0f} s"
        found.append(f"{show(small.size)} → {show(large.size)}: {told}")
    return found


def _time(f: Findings) -> str:
    own = 1 - f.training_seconds / max(f.seconds, 1e-9)
    share = f"{own:.1%} were the search's own" if own >= 0 else "processes shared the work"
    return f"The search took {f.seconds:,.0f} s, its trials {f.training_seconds:,.0f} s; {share}."
