"""What a search would have found if losses were a known function of the settings."""

import numpy as np

from carcls.config import Config
from carcls.search import propose, ranking, space
from carcls.search.book import Book, Rung
from carcls.search.findings import Climb, Findings
from carcls.search.trial import Outcome

SPACE = "lr=5e-4:4e-3 augment=light,medium label_smoothing=0,0.05,0.1"
SIZES = ((32, 48), (48, 64), (64, 96), (80, 128))


def loss_of(number, point):
    """Lowest at lr 2e-3; other settings matter less."""
    rate = abs(np.log(float(point.get("lr") or 1e-3) / 2e-3))
    return 1.0 + 0.4 * rate + 0.1 * sum(map(len, point.values())) % 0.3 + 0.001 * number


def outcome(loss, rng, seed, last=False, diverged=""):
    if diverged:
        return Outcome(seconds=3.0, diverged=diverged)
    photos = np.random.default_rng(1).exponential(1, 80)
    losses = photos / photos.mean() * loss + rng.normal(0, 0.3, 80)
    apart = losses[::-1] + rng.normal(0, 0.2, 80) + 0.02 * seed
    right = (losses < 1.2).tolist()
    parts = (apart.round(6).tolist(), right[::-1]) if last else ([], [])
    return Outcome(losses.round(6).tolist(), right, *parts, seconds=10.0, epoch_seconds=4.0)


def found(folder, text=SPACE, candidates=12, rungs=2, last=True, **options):
    """Findings without a training.

    rungs: before the last one, of which there may be none (``last=False``). options: base
    (settings), loss (candidate, point → log-loss), diverged (candidates), importance, proposer.
    """
    base = Config(**options.get("base", {}))
    book = Book(folder, base, space.read(text, base), {})
    sobol, rng = propose.Sobol(book.space, 1), np.random.default_rng(0)
    points = {0: space.point_of(base, book.space)}
    points |= {n: sobol.propose(n, {}, 0) for n in range(1, candidates)}
    loss, diverged = options.get("loss", loss_of), options.get("diverged", ())
    numbers, climbs = list(points), []
    for number in range(rungs):
        rung = Rung(SIZES[number], 2, numbers, 100.0)
        ended = {
            (n, 1): outcome(
                loss(n, points[n]) / (1 + 0.2 * number), rng, 0, False, "NaN" * (n in diverged)
            )
            for n in numbers
        }
        ranked = ranking.rank({n: ended[n, 1] for n in numbers})
        climbs.append(Climb(rung, ended, ranked.reasons))
        numbers = ranked.going_on
    if last:
        finalists = [0, *(n for n in numbers if n)][:4]
        rung = Rung(SIZES[-1], 8, finalists, 200.0, True)
        ended = {
            (n, s): outcome(loss(n, points[n]) / 2, rng, s, True, "NaN" * (n in diverged))
            for s in (2, 3)
            for n in finalists
        }
        climbs.append(Climb(rung, ended, {}))
    ends = climbs[-1].outcomes if last else {}
    seconds = 1.04 * sum(o.seconds for climb in climbs for o in climb.outcomes.values())
    shares = options.get("importance", {n: 0.5**i for i, n in enumerate(book.space, 1)})
    proposer = options.get("proposer", propose.Tpe.name)
    verdict = ranking.verdict(ends)
    return Findings(book, seconds, proposer, points, climbs, shares, verdict)
