"""report.html and the pictures of a run, from what it has measured and left in its folder."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from carcls import disk
from carcls.config import Config
from carcls.data import photos
from carcls.data.labels import spreadsheet_safe
from carcls.report import charts, sheets, views
from carcls.votes import decide, pseudo, votes

CAPTIONS = charts.CAPTIONS | sheets.CAPTIONS | views.CAPTIONS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
img { max-width: 100% }
table { border-collapse: collapse; margin: .7em 0 }
td, th { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd }
figure { margin: 1.5em 0 }
figcaption { color: #555 }
pre { background: #f6f6f6; padding: 1em; overflow: auto }
.wide { overflow: auto }
.wide td, .wide th { padding: .15em .5em; font-size: 13px }
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>carcls run</title>
<style>{{ style }}</style>

<h1>carcls run</h1>
<p>Validation accuracy <b>{{ "%.4f"|format(result.validation_accuracy) }}</b> (95 % interval
{{ "%.4f"|format(result.validation_interval_95[0]) }}–{{
   "%.4f"|format(result.validation_interval_95[1]) }}),
measured on {{ result.validation_photos }} photos that the networks were not trained on.
Submission: {{ result.made_by }}.
{% for warning in result.warnings %}<b>Warning: {{ warning }}.</b>
{% endfor %}
{% if result.true_accuracy is defined %}
True accuracy of submission.csv on the drawn test photos:
<b>{{ "%.4f"|format(result.true_accuracy) }}</b>.
{% endif %}
</p>
<p>The best epoch, and whether views help, were chosen on these same photos, so the accuracy is a
little too good. A blend is judged on photos that it was neither fitted nor chosen on.</p>

{% if result.tuned %}
<h2>Search at small sizes</h2>
<p>{{ result.tuned.verdict[0]|upper }}{{ result.tuned.verdict[1:] }}.
<a href="tune/tune.html">The whole search</a>. The validation photos have chosen these settings,
too, so the accuracy above flatters them; those of the verdict have not.</p>
{% endif %}

{% if result.pseudo %}
<h2>Pseudo-labels</h2>
<p>{{ result.pseudo.chosen }}</p>
{% for reason in result.pseudo.reasons %}<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}

{% if result.refit %}
<h2>Refit</h2>
{% if result.refit.kept|select|list %}
<p>Validation was measured before networks went on training with the validation photos too,
{{ "{:,}".format(result.refit.photos) }} photos in all. No labelled photo is left to measure those
networks on.</p>
{% endif %}
{% for reason in result.refit.reasons %}<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}

{% if members|length > 1 %}
<h2>Members and blend</h2>
<div class="wide">{{ html(decision.alone) }}</div>
<p>Blends, each judged on photos that it was not fitted on:</p>
<div class="wide">{{ html(decision.choice.table) }}</div>
<p>Blend {{ decision.choice.blend.kind }}: {{ decision.choice.reason }}</p>
{% endif %}

{% for path in pictures %}{{ picture(path) }}
{% endfor %}

{% for member in members %}
<h2>Member {{ member.name }}</h2>
{% for name, history in member.histories.items() %}{% for verdict in verdicts(history) -%}
<p>{{ name }}{{ ": " if name }}{{ verdict }}</p>
{% endfor %}{% endfor %}
<h3>Test-time augmentation</h3>
<p>Gate {{ decision.gates[loop.index0].reason }}</p>
<div class="wide">{{ html(votes.tta_table(member.val)) }}</div>
{% if cfg.asked_views.adaptive %}
<p>{{ votes.describe_saving(member.val, cfg.views) }}</p>
{% endif %}
{% if member.val.probs|length >= 4 %}
<h3>Views against accuracy</h3>
<div class="wide">{{ html(votes.trade_off(member.val)) }}</div>
{% endif %}
{% for path in own_pictures[loop.index0] %}{{ picture(path) }}
{% endfor %}
{% for name, history in member.histories.items() %}
<h3>Epochs {{ name }}</h3>
<div class="wide">{{ html(history) }}</div>
{% endfor %}
{% endfor %}

<h2>Settings</h2>
<pre>{{ cfg.model_dump_json(indent=2) }}</pre>
<p>Source {{ result.source }}; {{ result.versions }}</p>
</html>
"""


def before_training(cfg: Config, table: photos.Table, out: Path) -> list[Path]:
    """Draw what to look at while training goes on; returns the pictures' paths."""
    pictures = [
        sheets.augmentation(cfg, table, out / "augmentation.png"),
        sheets.audit(table, out / "audit.png"),
    ]
    if cfg.boxes:
        pictures.append(sheets.boxed(table.frame, out / "boxes.png"))
    return pictures


def write(
    cfg: Config,
    table: photos.Table,
    members: Sequence[Any],
    decision: decide.Decision,
    result: dict[str, Any],
    out: Path,
) -> list[Path]:
    """Draw a finished run, write labels.csv and report.html, which holds all; returns their paths.

    members: each has name, folder, val (its votes on validation photos) and histories.
    """
    classes = [str(name) for name in table.classes]
    labelled = table.frame[table.frame["fold"] != photos.TEST].set_index("id", drop=False)
    labelled = labelled.loc[members[0].val.ids]
    truth, probs = members[0].val.labels, decision.val_probs
    best = int(decision.alone["accuracy"].argmax())
    labels = pseudo.suspicious(members[best].val, cfg.member_cfgs()[best].label_smoothing)
    named = {column: [classes[k] for k in labels[column]] for column in ("given", "predicted")}
    content = spreadsheet_safe(labels.assign(**named).drop(columns="row"))
    disk.write_atomic(out / "labels.csv", content.to_csv(index=False))
    before = ["augmentation.png", "audit.png", *(["boxes.png"] if cfg.boxes else [])]
    pictures = [
        *(out / name for name in before),
        charts.confusion(classes, truth, probs.argmax(1), out / "confusion.png"),
        sheets.errors(labelled, truth, probs, classes, out / "errors.png"),
        sheets.suspicious(labelled, labels, classes, out / "suspicious.png"),
    ]
    curves = {member.name: votes.curve(member.val) for member in members}
    if any(len(curve) > 1 for curve in curves.values()):
        fixed = not cfg.views.adaptive and all(gate.open for gate in decision.gates)
        used = cfg.views.most if fixed else None
        pictures.append(views.tta_curve(curves, used, out / "tta_curve.png"))
    own_pictures = [_draw_member(cfg, member, labelled, classes) for member in members]
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    about = {"cfg": cfg, "members": members, "decision": decision, "result": result}
    drawn = {"pictures": pictures, "own_pictures": own_pictures, "style": Markup(STYLE)}
    tools = {"picture": _picture, "html": _html, "verdicts": verdicts, "votes": votes}
    disk.write_atomic(out / "report.html", page.render(**about, **drawn, **tools))
    return [*pictures, *itertools.chain(*own_pictures), out / "report.html"]


def _draw_member(
    cfg: Config, member: Any, labelled: pd.DataFrame, classes: list[str]
) -> list[Path]:
    """Pictures of a member's epochs and views, in its folder."""
    folder, val = member.folder, member.val
    pictures = [
        charts.curves(history, folder / name / "curves.png", name)
        for name, history in member.histories.items()
        if len(history) > 1  # of one epoch the table says all
    ]
    if len(val.probs) > 1:
        asked = val.as_asked(cfg.views)
        pictures += [
            views.matrix(asked, classes, folder / "matrix.png"),
            views.agreement(asked, folder / "agreement.png"),
            sheets.disputed(labelled, asked, classes, folder / "disputed.png"),
        ]
    if len(val.probs) >= 4:
        pictures.append(views.trade_off(votes.trade_off(val), folder / "trade_off.png"))
    return pictures


def verdicts(history: pd.DataFrame) -> list[str]:
    """What the curves say of a training: too short, too long, or neither."""
    if history["val_loss"].isna().all():  # of a refit
        return []
    last_size = history[history["stage"] == history["stage"].max()]
    loss, accuracy = last_size["val_loss"].to_numpy(), last_size["val_accuracy"].to_numpy()
    if len(loss) < 3:
        return ["Fewer than three epochs at the last size: too few to judge how long to train."]
    found = []
    fell = 1 - loss[-1] / loss[-3]
    if loss[-1] == loss.min() and fell > 0.1 and accuracy[-1] > accuracy[-3]:
        found.append(
            f"Under-trained: over the last two epochs validation loss still fell by {fell:.0%} and "
            "accuracy rose. More epochs should help."
        )
    if loss[-1] > 1.05 * loss.min():
        found.append(
            f"Over-fitted: validation loss ended {loss[-1] / loss.min() - 1:.0%} above its best. "
            "Fewer epochs or stronger augmentation should help."
        )
    return found or ["The curves show neither too few nor too many epochs."]


def _html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, float_format="%.4g", na_rep="", border=0))


def _picture(path: Path) -> Markup:
    return figure(path, CAPTIONS[path.name])


def figure(path: Path, caption: str) -> Markup:
    """A picture with its caption, and the names that it shows as numbers."""
    with Image.open(path) as opened:
        legend = opened.info.get(charts.LEGEND, "")
    whole = Markup("<figure>{}<figcaption>{}{}</figcaption></figure>")
    return whole.format(image(path), caption, legend and Markup("<br>") + legend)


def image(path: Path) -> Markup:
    """A PNG as a part of a page, without the file."""
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(path.name, data)
