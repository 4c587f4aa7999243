"""How pages look: the frame of every page (style, script), and the report of a run.

Nothing is fetched from elsewhere, and every page can be read without its script: that sorts tables,
opens pictures large, and unfolds what a link or a printer asks for.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f4f6f8; --text: #1b1f24;
  --soft: #525b66; --line: #cfd6dd; --link: #0b5cad; --good: #14702f; --bad: #b3261e;
  --loud: #fff0c2; --loud-text: #4f3400; --loud-line: #b57f00 }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --panel: #1e232b; --text: #e6e9ed;
  --soft: #a9b2bd; --line: #3a424d; --link: #86bdff; --good: #6fd28c; --bad: #ff8f86;
  --loud: #463200; --loud-text: #ffe6ac; --loud-line: #d9a520 } }
* { box-sizing: border-box }
html { scroll-padding-top: 3.4rem }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: var(--text);
  background: var(--ground) }
main { max-width: 1180px; min-width: 0; margin: 0 auto; padding: 1rem 1.2rem 3rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .4rem 0 .6rem }
h2 { font-size: 1.25rem; margin: 1.4rem 0 .5rem }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem }
h1, h2, h3, p, li, dd, figcaption { overflow-wrap: anywhere }
p { margin: .5rem 0; max-width: 52rem }
a { color: var(--link) }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
img { max-width: 100%; height: auto; vertical-align: top }
figure { margin: 1rem 0 }
figure > img, td img { background: #fff; border-radius: 4px }
figcaption { color: var(--soft); max-width: 52rem; margin-top: .3rem }
pre { background: var(--panel); padding: 1rem; overflow: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.wide { overflow: auto; margin: .7rem 0; max-height: 32rem }
td, th { padding: .18rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-size: 13px }
th { position: sticky; top: 0; background: var(--panel); white-space: nowrap }
td:first-child, th:first-child, .text td, .text th { text-align: left }
.wide td { white-space: nowrap }
.text td { white-space: normal } .text td:last-child { min-width: 14em }
th button { all: unset; cursor: pointer; font-weight: bold }
th button:focus-visible { outline: 3px solid var(--link) }
th button::after { content: " ↕"; color: var(--soft); font-weight: normal }
[aria-sort=ascending] button::after { content: " ↑" }
[aria-sort=descending] button::after { content: " ↓" }
details { border: 1px solid var(--line); border-radius: 8px; margin: .8rem 0; padding: 0 1rem }
summary { cursor: pointer; padding: .6rem 0; color: var(--soft) }
summary h2 { display: inline; margin: 0 .6rem 0 .2rem; color: var(--text) }
.open-large { all: unset; cursor: zoom-in; display: inline-block; max-width: 100% }
.open-large:focus-visible { outline: 3px solid var(--link) }
dialog { max-width: 98vw; max-height: 98vh; padding: .5rem; overflow: auto;
  border: 1px solid var(--line); background: var(--ground); color: var(--text) }
dialog::backdrop { background: rgb(0 0 0 / .7) }
dialog img { max-width: none; background: #fff; display: block }
dialog form { position: sticky; left: 0; top: 0; margin-bottom: .4rem }
@media (prefers-color-scheme: dark) {
  figure > img, figure > button > img, td img { border: 6px solid #fff } }
@media print { nav, dialog { display: none } .wide { max-height: none; overflow: visible }
  details::details-content { content-visibility: visible; display: block; height: auto }
  figure, tr { break-inside: avoid } }
"""

SCRIPT = """
'use strict';
for (const table of document.querySelectorAll('table.sorts')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const text = row => row.cells[column].textContent.trim();
      const number = cell => parseFloat(cell.replace(/,/g, '').replace('−', '-'));
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every(row => !text(row) || !isNaN(number(text(row))));
      rows.sort((one, other) => {
        const a = text(one), b = text(other);
        if (!a || !b) return !a - !b;
        const order = numeric ? number(a) - number(b) : a.localeCompare(b);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
  });
}
const large = document.querySelector('dialog');
for (const image of document.querySelectorAll('figure > img, td img')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'open-large';
  button.setAttribute('aria-label', 'Open large: ' + image.alt);
  image.replaceWith(button);
  button.append(image);
  button.onclick = () => {
    large.querySelector('img')?.remove();
    const copy = image.cloneNode();
    const wide = Math.max(image.naturalWidth, Math.min(2 * image.naturalWidth, innerWidth - 60));
    copy.style.width = wide + 'px';
    large.append(copy);
    large.showModal();
  };
}
large.onclick = event => { if (event.target === large) large.close(); };
const unfold = () => {
  let place = document.getElementById(location.hash.slice(1));
  for (; place; place = place.parentElement) if (place.tagName === 'DETAILS') place.open = true;
};
addEventListener('hashchange', unfold);
unfold();
let folded = [];
addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('details:not([open])')];
  folded.forEach(part => { part.open = true; });
});
addEventListener('afterprint', () => folded.forEach(part => { part.open = false; }));
"""

BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src
'unsafe-inline'; script-src 'unsafe-inline'">
<title>{% block title %}{% endblock %}</title>
<style>{{ style }}{% block style %}{% endblock %}</style>
</head>
<body>
{% block contents %}{% endblock %}
<main>
{% block main %}{% endblock %}
</main>
<dialog aria-label="A picture, large"><form method="dialog"><button>Close</button></form></dialog>
<script>{{ script }}</script>
</body>
</html>
"""

REPORT = """{% extends "base" %}
{% block title %}carcls: {{ score.metric }} {{ "%.4f"|format(score.value) }}{% endblock %}
{% block style %}
nav { position: sticky; top: 0; z-index: 2; background: var(--panel); overflow-x: auto;
  border-bottom: 1px solid var(--line) }
nav ul { display: flex; gap: .9rem; list-style: none; margin: 0; padding: .55rem 1rem;
  white-space: nowrap }
@media (min-width: 1100px) {
  body { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr) }
  nav { height: 100vh; border: 0; border-right: 1px solid var(--line) }
  nav ul { flex-direction: column; gap: .5rem; padding: 1.6rem 1.2rem }
  main { width: 100% } html { scroll-padding-top: .5rem } }
@media print { body { display: block } }
.warning { background: var(--loud); color: var(--loud-text); border: 2px solid var(--loud-line);
  border-radius: 8px; padding: .5rem .9rem; max-width: none; font-weight: 600 }
.value { font-size: 2.5rem; white-space: nowrap }
.score text { font-size: 12px; fill: var(--soft) }
.score { display: block; overflow: visible; max-width: 46rem; margin: 0 1.2rem 0 .6rem;
  width: calc(100% - 1.8rem) }
.axis { stroke: var(--soft) } .band { fill: var(--link); opacity: .35 } .point { fill: var(--link) }
.true { stroke: var(--text); stroke-width: 2.5 }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem;
  margin: .7rem 0 }
dt { color: var(--soft) } dd { margin: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr));
  gap: .9rem; list-style: none; padding: 0; margin: .5rem 0 }
.cards li { background: var(--panel); border-left: 4px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem }
.cards .mend { border-color: var(--loud-line) }
.cards h3 { margin: 0 } .cards p { margin: .3rem 0; font-size: 14px }
.photos { display: flex; gap: .6rem } .photos figure { margin: .4rem 0 0; flex: 0 1 184px;
  min-width: 0 }
.photos figure img { border: 0 }
.photos figcaption, .below { color: var(--soft); font-size: 12px !important; line-height: 1.35 }
.spark { width: 100%; height: 56px; display: block } .spark polyline { fill: none;
  stroke: var(--link); stroke-width: 2; vector-effect: non-scaling-stroke }
.big { font-size: 1.7rem !important } .good { color: var(--good) } .bad { color: var(--bad) }
.beside { display: grid; gap: 0 1.5rem }
.beside > * { min-width: 0 }
@media (min-width: 1500px) { main { max-width: 1500px }
  .beside { grid-template-columns: repeat(2, minmax(0, 1fr)) } }
{% endblock %}

{% block contents %}
<nav aria-label="Contents"><ul>
<li><a href="#result">Result</a></li>
{% for id, title in contents %}
<li><a href="#{{ id }}">{{ title }}</a></li>
{% endfor %}
</ul></nav>
{% endblock %}

{% macro part(id, title, gist, open=False) %}
<details{{ " open" if open }}><summary><h2 id="{{ id }}">{{ title }}</h2>{{ gist }}</summary>
{{ caller() }}
</details>
{% endmacro %}

{% block main %}
{% for warning in result.warnings %}
<p class="warning">Warning: {{ warning }}.</p>
{% endfor %}
<h1 id="result">Validation {{ score.metric }}
<span class="value">{{ "%.4f"|format(score.value) }}</span></h1>
<svg class="score" height="62" role="img" aria-label="{{ score.metric }} {{
"%.4f"|format(score.value) }}, 95 % interval {{ "%.4f"|format(score.low) }} to {{
"%.4f"|format(score.high) }}{% if score.true is defined %}, true {{
"%.4f"|format(score.true) }}{% endif %}">
<line class="axis" x1="0" x2="100%" y1="40" y2="40"/>
{% for at, text in score.marks %}
<line class="axis" x1="{{ at }}" x2="{{ at }}" y1="36" y2="44"/>
<text x="{{ at }}" y="58" text-anchor="middle">{{ text }}</text>
{% endfor %}
<rect class="band" x="{{ score.at.low }}" width="{{ score.width }}" y="14" height="18" rx="4"/>
{% if score.true is defined %}
<line class="true" x1="{{ score.at.true }}" x2="{{ score.at.true }}" y1="6" y2="40"/>
{% endif %}
<circle class="point" cx="{{ score.at.value }}" cy="23" r="7"/>
</svg>
<p>95 % interval {{ "%.4f"|format(score.low) }}–{{ "%.4f"|format(score.high) }} (the band), on {{
"{:,}".format(result.validation_photos) }} photos that the networks were not trained on.
{% if score.metric != "accuracy" %}
Accuracy <b>{{ "%.4f"|format(result.validation_accuracy) }}</b>.
{% endif %}
{% for name, known in score.known.items() %}
True {{ name }} of submission.csv on the drawn test photos{{
" (the upright line)" if name == score.metric }}: <b>{{ "%.4f"|format(known) }}</b>.
{% endfor %}</p>
<dl><dt>Made by</dt><dd>{{ result.made_by }}</dd>
<dt>Photos</dt><dd>{{ counts }}</dd>
{% if time %}
<dt>Time</dt><dd>{{ time }}</dd>
{% endif %}</dl>

<h2>Worth knowing</h2>
<ul class="cards">
{% for verdict in verdicts %}
<li class="{{ verdict.kind }}{{ " mend" if not verdict.rank }}"><h3>{{ verdict.title }}</h3>
<p>{{ verdict.text }}</p>{{ verdict.picture }}</li>
{% endfor %}
</ul>

{% call part("data", "Data", counts) %}
{{ data }}
{% endcall %}

{% call part("training", "Training", gists.training) %}
<p>The best epoch, and whether views help, were chosen on the validation photos, so that what is
measured on them is a little too good. A blend is judged on photos that it was neither fitted nor
chosen on.</p>
{% if result.tuned %}
<h3>Search at small sizes</h3>
<p>{{ result.tuned.verdict[0]|upper }}{{ result.tuned.verdict[1:] }}.
<a href="tune/tune.html">The whole search</a>. The validation photos have chosen these settings,
too, so the figure above flatters them; those of the verdict have not.</p>
{% endif %}
{% if result.pseudo %}
<h3>Pseudo-labels</h3>
<p>{{ result.pseudo.chosen }}</p>
{% for reason in result.pseudo.reasons %}
<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}
{% if result.refit %}
<h3>Refit</h3>
{% if result.refit.kept|select|list %}
<p>Validation was measured before networks went on training with the validation photos too,
{{ "{:,}".format(result.refit.photos) }} photos in all. No labelled photo is left to measure those
networks on.</p>
{% endif %}
{% for reason in result.refit.reasons %}
<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}
{% for network in networks %}
<h3>Epochs of {{ network.name }}</h3>
{% for title, sentence in network.judged %}
<p><b>{{ title }}.</b> {{ sentence }}</p>
{% endfor %}
{{ network.curves }}
{{ table(network.history, "Epochs of " ~ network.name) }}
{% endfor %}
{% endcall %}

{% call part("votes", "Votes", gists.votes) %}
{% if members|length > 1 %}
<h3>Members and blend</h3>
{{ table(decision.alone, "Members alone") }}
<p>Blends, each judged on photos that it was not fitted on:</p>
{{ table(decision.choice.table, "Blends") }}
<p>Blend {{ decision.choice.blend.kind }}: {{ decision.choice.reason }}</p>
{% endif %}
{% if result.calibration_error is defined %}
<p>The probability of the predicted class is {{
"%.3f"|format(result.calibration_error.before) }} off on average{% if result.temperature != 1 %}, {{
"%.3f"|format(result.calibration_error.after) }} with temperature {{
"%.2f"|format(result.temperature) }}{% endif %} (expected calibration error).
{% if result.temperature != 1 %}
All figures below are of the probabilities before that.
{% endif %}</p>
{% endif %}
{{ calibration }}
{{ tta_curve }}
{% for member in members %}
<h3>Views of member {{ member.name }}</h3>
<p>Gate {{ member.gate }}</p>
{{ table(member.tta, "Accuracy by views of member " ~ member.name) }}
{% if member.saving %}
<p>{{ member.saving }}</p>
{% endif %}
{% if member.trade_off is not none %}
<p>Passes a photo against accuracy:</p>
{{ table(member.trade_off, "Rules for views of member " ~ member.name) }}
{% endif %}
{{ member.pictures }}
{% endfor %}
{% endcall %}

{% call part("errors", "Errors", gists.errors, open=True) %}
{% if pairs|length %}
<p>errors.csv lists every wrong photo with its probabilities and votes, the highest loss first.</p>
<div class="beside">
<div><h3>Classes taken for each other</h3>
{{ table(pairs, "Pairs of classes", wrapped=True) }}</div>
<div>{{ confusion }}</div>
</div>
{{ wrong }}
{% else %}
<p>All {{ "{:,}".format(result.validation_photos) }} validation photos are predicted rightly.</p>
{% endif %}
<h3>Class by class</h3>
{{ table(classes, "Class by class") }}
<h3>Labels to look at</h3>
{{ suspicious }}
{% endcall %}

{% call part("settings", "Settings", gists.settings) %}
<pre tabindex="0">{{ cfg.model_dump_json(indent=2) }}</pre>
<p>Source {{ result.source }}; {{ result.versions }}</p>
{% endcall %}
{% endblock %}
"""
