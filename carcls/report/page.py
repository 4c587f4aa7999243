"""report.html and the pictures of a run, from what it has measured and left in its folder."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from carcls.config import Config
from carcls.data import photos
from carcls.disk import write_atomic
from carcls.network import Member, as_test
from carcls.report import charts as figures
from carcls.votes import decide, pseudo


def verdicts(history: pd.DataFrame) -> list[str]:
    """What the curves say of the run: trained too little (S39), too long (S40), or neither."""
    if history["val_loss"].isna().all():  # of a refit
        return []
    last = history[history["stage"] == history["stage"].max()]
    loss, accuracy = last["val_loss"].to_numpy(), last["val_accuracy"].to_numpy()
    if len(loss) < 3:
        return [
            "Fewer than three epochs in the last stage: too few to judge over- or under-training."
        ]
    found = []
    fell = 1 - loss[-1] / loss[-3]
    if loss[-1] == loss.min() and fell > 0.1 and accuracy[-1] > accuracy[-3]:
        found.append(
            f"Under-trained: over the last two epochs validation loss still fell by {fell:.0%} and accuracy "
            "rose; more epochs should help."
        )
    if loss[-1] > 1.05 * loss.min():
        found.append(
            f"Over-fitted: validation loss ended {loss[-1] / loss.min() - 1:.0%} above its best; fewer epochs or "
            "stronger augmentation should help."
        )
    return found or ["Neither over- nor under-training shows in the curves."]


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}img{max-width:100%}
table{border-collapse:collapse;margin:.7em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}
figure{margin:1.5em 0}figcaption{color:#555}pre{background:#f6f6f6;padding:1em;overflow:auto}.wide{overflow:auto}
.wide td,.wide th{padding:.15em .5em;font-size:13px}"""
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>carcls run</title><style>{{ style }}</style>
<h1>carcls run</h1>
<p>Validation accuracy <b>{{ "%.4f"|format(r.validation_accuracy) }}</b>
(95 % interval {{ "%.4f"|format(r.validation_interval_95[0]) }}–{{ "%.4f"|format(r.validation_interval_95[1]) }}),
measured on {{ r.validation_photos }} photos that were not trained on but chose the best epoch. Submission: {{ r.made_by }}.
{% if r.true_accuracy is defined %}True accuracy of submission.csv on the drawn test photos:
<b>{{ "%.4f"|format(r.true_accuracy) }}</b>.{% endif %}</p>
<p>The best epoch and the gate of test-time augmentation were chosen on these same photos, which flatters a little; a blend
that was fitted on them is judged out of fold, its choice included.</p>
{% if r.pseudo %}<h2>Pseudo-labels</h2><p>{{ r.pseudo.chosen }}</p>{% for line in r.pseudo.reasons %}<p>{{ line }}</p>{% endfor %}
{% endif %}
{% if r.refit %}<h2>Refit</h2>{% if r.refit.kept|select|list %}<p>After all that this page shows of validation was measured, networks
went on training with the validation photos too, {{ "{:,}".format(r.refit.photos) }} in all. No labelled photo is left to measure them on.</p>
{% endif %}{% for line in r.refit.reasons %}<p>Member {{ loop.index }}: {{ line }}</p>{% endfor %}{% endif %}
{% if blends %}<h2>Members and blend</h2><div class="wide">{{ alone }}</div>
<p>Blends, each judged on photos that it was not fitted on:</p><div class="wide">{{ blends }}</div><p>{{ reason }}</p>{% endif %}
{% for p in top %}{{ picture(p) }}{% endfor %}
{% for m in members %}<h2>Member {{ m.name }}</h2>{% for v in m.verdicts %}<p>{{ v }}</p>{% endfor %}
<h3>Test-time augmentation</h3><p>Gate {{ m.gate }}</p><div class="wide">{{ m.tta }}</div>
{% if m.adaptive %}<p>{{ m.adaptive }}</p>{% endif %}
{% if m.trade_off %}<h3>Views against accuracy</h3><div class="wide">{{ m.trade_off }}</div>{% endif %}
{% for p in m.pictures %}{{ picture(p) }}{% endfor %}
{% for sub, history in m.histories %}<h3>Epochs {{ sub }}</h3><div class="wide">{{ history }}</div>{% endfor %}{% endfor %}
<h2>Settings</h2><pre>{{ settings }}</pre><p>Source {{ r.source }}; {{ r.versions }}</p></html>"""


def write(
    cfg: Config,
    table: photos.Table,
    made: list[Member],
    decision: decide.Decision,
    result: dict[str, Any],
    out: Path,
) -> list[Path]:
    """The pictures of a finished run and report.html, which has them all inside; returns their paths."""
    how = cfg.tta_combine
    truth, predicted = made[0].val.labels, decision.val_probs.argmax(1)
    rows = (
        table.frame[table.frame["fold"] != photos.TEST]
        .set_index("id", drop=False)
        .loc[made[0].val.ids]
    )
    classes = [str(name) for name in table.classes]
    used = cfg.tta_views if all(gate.open for gate in decision.gates) and not cfg.tta_cap else None
    top = [
        figures.confusion(classes, truth, predicted, out / "confusion.png"),
        figures.errors(rows, classes, truth, decision.val_probs, out / "errors.png"),
        figures.tta_curve(decision.curves, used, out / "tta_curve.png"),
    ]
    best = int(decision.alone["accuracy"].argmax())
    # A network trained with label smoothing never says more than 1 - smoothing, so its
    # near-certainty lies lower.
    smoothing = cfg.of_members()[best].label_smoothing
    odd = pseudo.suspicious(
        made[best].val,
        how,
        certainty=0.95 * (1 - smoothing),
        unlikely=pseudo.UNLIKELY + smoothing / len(classes),
    )
    named = odd.assign(
        given=[classes[k] for k in odd["given"]], predicted=[classes[k] for k in odd["predicted"]]
    )
    write_atomic(out / "labels.csv", named.drop(columns="row").to_csv(index=False))
    top.append(figures.suspicious(rows, odd, classes, out / "suspicious.png"))
    before = [
        out / name for name in ("augmentation.png", "audit.png", *["boxes.png"] * bool(cfg.boxes))
    ]
    shown, members = [*before, *top], []
    for number, member in enumerate(made):
        pictures = [
            figures.curves(history, member.folder / sub / "curves.png", sub)
            for sub, history in member.histories.items()
            if len(history) > 1  # of one epoch the table says all
        ]
        if len(member.val.probs) > 1:
            asked = as_test(
                cfg, member.val
            )  # with the adaptive rule some have more views than others
            pictures += [
                figures.matrix(asked, classes, member.folder / "matrix.png", how),
                figures.agreement(asked, member.folder / "agreement.png", how),
                figures.disputed(rows, asked, classes, member.folder / "disputed.png", how),
            ]
        if len(decision.trade_offs[number]) > 2:
            pictures.append(
                figures.trade_off(decision.trade_offs[number], member.folder / "trade_off.png")
            )
        shown += pictures
        members.append(
            {
                "name": member.name,
                "verdicts": [
                    f"{sub}: {line}" if sub else line
                    for sub, history in member.histories.items()
                    for line in verdicts(history)
                ],
                "gate": decision.gates[number].reason,
                "tta": _html(decision.tta[number]),
                "adaptive": decide.saved_line(decision.adaptive[number])
                if decision.adaptive
                else "",
                "trade_off": _html(decision.trade_offs[number])
                if len(decision.trade_offs[number]) > 2
                else "",
                "pictures": pictures,
                "histories": [(sub, _html(history)) for sub, history in member.histories.items()],
            }
        )
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            style=Markup(STYLE),
            r=result,
            members=members,
            top=[*before, *top],
            picture=_picture,
            alone=_html(decision.alone),
            blends=_html(decision.choice.table) if len(made) > 1 else "",
            reason=f"Blend {decision.choice.blend.kind}: {decision.choice.reason}",
            settings=cfg.model_dump_json(indent=2),
        )
    )
    write_atomic(out / "report.html", page)
    return [*shown, out / "report.html"]


def _html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, float_format="%.4g", na_rep="", border=0))


def _picture(path: Path) -> Markup:
    """With its caption, all inside the page."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(
        image(path), figures.CAPTIONS[path.name]
    )


def image(path: Path) -> Markup:
    """A PNG inside a page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(path.name, data)
