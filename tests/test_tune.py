"""A search: what it may choose, how its time is spent, who goes on, and that it is honest."""

import contextlib
import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from carcls import config, disk, errors
from carcls.config import Config
from carcls.errors import ConfigError, InputError
from carcls.search import book as books
from carcls.search import findings, halving, plan, propose, ranking, space, trial
from carcls.search.book import Book
from carcls.search.halving import Search
from carcls.search.plan import Pace
from carcls.search.space import Choices, Range
from carcls.search.trial import Outcome, Task
from carcls.votes import evidence

BASE = config.parse({"preset": "quick", "weights": "none"})
SPACE = "lr=1e-4:1e-2 mix=,mixup:0.2,cutmix:1 ema=0,0.98"
BEST = 3e-3  # of the stub's rates


# --- The space ------------------------------------------------------------------------------------


def test_a_space_has_ranges_and_lists():
    found = space.read("lr=5e-4:4e-3 mix=none,mixup:0.2,mixup:0.2+cutmix:1 hidden=0:256", BASE)
    assert found["lr"] == Range(5e-4, 4e-3, is_log=True, is_whole=False)
    assert found["mix"] == Choices(("", "mixup:0.2", "mixup:0.2,cutmix:1"))
    assert found["hidden"].at(0.501) == "128"
    assert float(found["lr"].at(0.5)) == pytest.approx((5e-4 * 4e-3) ** 0.5, rel=1e-2)
    assert space.count(space.read("ema=0,0.98 optimizer=adam,adamw,sgd", BASE)) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "'lr' is not key=values"),
        ("lr=1e-3 lr=2e-3", "lr is given twice"),
        ("stages=32x48x1", "stages cannot be searched"),
        ("seed=1,2", "seed cannot be searched"),
        ("folds=1,2", "folds cannot be searched"),
        ("lr=-1,1e-3", "lr='-1'"),
        ("lr=0:1", "above 0"),
        ("lr=2e-3:1e-3", "LOW below HIGH"),
        ("dropout=0:1", "dropout='1'"),
        ("pooling=avg,mean", "pooling='mean'"),
        ("mix=mixup", "mix='mixup'"),
        ("lr=1e-3,0.001", "one value comes twice"),
        ("pooling=0:1", "pooling=0:1: a range"),
        ("lr=1e-3", "nothing to choose"),
        ("", "^tune_space: empty"),
    ],
)
def test_what_config_refuses_is_refused_before_anything_is_trained(text, said):
    with pytest.raises(ConfigError, match=said):
        space.read(text, BASE)


@pytest.mark.parametrize("preset", ["quick", "good", "default", "sample", "kaggle"])
def test_the_usual_space_has_the_settings_as_they_are(preset):
    base = config.parse({"preset": preset, "weights": "none"})
    searched = space.default(base, [])
    assert space.has(searched, space.point_of(base, searched))
    for share in (0.0, 0.49, 0.99):
        space.settings(base, {name: part.at(share) for name, part in searched.items()})


def test_what_a_search_found_is_taken_whole(tmp_path):
    found = BASE.replace(lr=0.0012345678, mix="mixup:0.2,cutmix:1", augment="my file.json", views=1)
    found = found.replace(data="elsewhere")
    pasted = shlex.split(" ".join(space.words(found)))  # as a shell reads SET
    assert config.from_words(pasted, "kaggle") == found.replace(data="")
    disk.write_json(tmp_path / "tuned.json", {"settings": space.everything(found)})
    given = [f"tuned={tmp_path / 'tuned.json'}", "lr=0.5"]
    for preset in config.PRESETS:  # whatever a kernel's SETTINGS begin with
        assert config.from_words(given, preset) == found.replace(data="", lr=0.5)
    assert config.from_words([*given, "preset=kaggle_best"]).lr == 0.5
    path = str(tmp_path / "tuned.json")
    assert config.parse({"preset": "kaggle_best", "tuned": path}) == found.replace(data="")
    text = (tmp_path / "tuned.json").read_text()
    (tmp_path / "tuned.json").write_text(text.replace("0.0012345678", "0.1"))
    with pytest.raises(ConfigError, match="tuned=.*changed since"):
        config.from_words(given)


# --- Time -----------------------------------------------------------------------------------------


def test_sizes_grow_to_the_largest_and_keep_its_shape():
    sizes = plan.ladder((384, 512))
    assert sizes[-1] == (384, 512)
    assert sizes == sorted(sizes)
    assert all(h % 16 == w % 16 == 0 and abs(w / h - 4 / 3) < 0.1 for h, w in sizes)
    assert plan.ladder((32, 48)) == [(32, 48)]
    patches = plan.ladder((224, 294), 14)
    assert len(patches) > 3 and not any(h % 14 or w % 14 for h, w in patches)


def test_a_plan_fits_into_its_time():
    pace, sizes = Pace(10.0, 0.002), plan.ladder((144, 240))
    for seconds in (300.0, 1000.0, 4000.0):
        first = plan.first_size(pace, sizes, seconds)
        n = plan.candidates(pace, sizes, first, seconds)
        assert 0 < n <= plan.MOST
        cost, at, left = 0.0, sizes[first], n
        while True:
            cost += left * pace.cost(at, plan.EPOCHS)
            left = plan.kept(left)
            found = plan.next_size([pace] * left, sizes, at, seconds - cost)
            if not found:
                break
            at = found
        assert cost <= seconds
    # So much time that a larger size begins, rather than ever more candidates.
    assert plan.first_size(pace, sizes, 1e5) > 0


def test_the_last_rung_takes_the_largest_size_that_time_allows():
    pace, sizes = Pace(10.0, 0.002), plan.ladder((144, 240))
    paces, each = [pace] * 4, pace.cost(sizes[-1], 3)
    assert plan.last_rung(paces, sizes, 7, 8 * each) == (sizes[-1], 3, 3)
    size, epochs, finalists = plan.last_rung(paces, sizes, 7, 7 * each)
    assert (size < sizes[-1], epochs >= 3, finalists) == (True, True, 3)
    assert plan.last_rung(paces, sizes, 7, 1e6) == (sizes[-1], 7, 3)
    assert plan.last_rung(paces, sizes, 7, 0.0) == (sizes[0], 1, 1)
    # Rather fewer finalists than epochs that tell nothing.
    assert plan.last_rung(paces, sizes, 7, 5 * pace.cost(sizes[0], 3)) == (sizes[0], 3, 1)
    # A slow network that is the last of the finalists is left out rather than all the others.
    slow = [pace, pace, Pace(10.0, 0.2)]
    assert plan.last_rung(slow, sizes, 7, 4 * each)[2] == 1


# --- Evidence -------------------------------------------------------------------------------------


def outcome(loss: float, apart: float | None = None, spread: float = 0.1, seed: int = 0) -> Outcome:
    """Photos' losses around a mean."""
    photos = 200
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, spread, photos)
    losses = (loss + noise - noise.mean()).tolist()
    more = losses if apart is None else (apart + noise - noise.mean()).tolist()
    return Outcome(losses, [True] * photos, more, [True] * photos, 10.0, 4.0)


def test_paired_losses():
    before = np.array([1.0, 2.0, 3.0, 4.0])
    found = evidence.compare_losses(before, before + np.array([0.1, 0.3, 0.1, 0.3]))
    assert found.mean == pytest.approx(0.2)
    assert found.error == pytest.approx(np.std([0.1, 0.3, 0.1, 0.3], ddof=1) / 2)
    assert evidence.compare_losses(before, before).p == 1
    # Surer on most photos and very wrong on a few: worse by its mean, better by its photos.
    sharper = np.where(np.arange(100) < 80, -0.1, 2.0)
    assert not evidence.compare_losses(np.zeros(100), sharper).is_surely_higher
    # What one photo decides is no evidence.
    one = np.zeros(100)
    one[0] = 5.0
    assert not evidence.compare_losses(np.zeros(100), one).is_surely_higher


def test_candidates_are_dropped_on_evidence_and_for_want_of_places():
    measured = {
        0: outcome(1.0),
        1: outcome(0.99, seed=1),
        2: outcome(3.0),
        3: Outcome(diverged="x"),
    }
    measured |= {4: outcome(0.995, seed=2), 5: outcome(0.994, seed=3)}
    found = ranking.rank(measured)
    assert found.going_on == [1, 5]  # a third of six
    assert found.order == [1, 5, 4, 0, 2]
    assert "worse than candidate 1" in found.reasons[2]
    assert "diverged" in found.reasons[3]
    assert "not surely worse" in found.reasons[4]


def test_whether_small_predicts_large():
    losses = np.linspace(1, 2, 12)
    assert ranking.agreement(losses, losses**2).predicts is True
    assert ranking.agreement(losses, -losses).predicts is False
    few = ranking.agreement(losses[:5], losses[:5])
    assert (few.tau, few.predicts) == (1, None)
    some = np.random.default_rng(1).integers(0, 6, (2, 15))  # with ties
    assert ranking.agreement(*some).tau == pytest.approx(stats.kendalltau(*some).statistic)
    mixed = ranking.agreement(losses, np.random.default_rng(0).permutation(losses))
    assert mixed.predicts is None


def test_the_verdict_is_of_photos_that_did_not_choose():
    seeds = (2, 3)
    last = {(0, s): outcome(1.0, 1.0, seed=s) for s in seeds}
    last |= {(4, s): outcome(0.5, 1.1, seed=s) for s in seeds}  # flattered by what chose it
    last |= {(7, s): outcome(0.9, 0.2, seed=s) for s in seeds}
    found = ranking.verdict(last)
    assert (found.winner, found.is_taken) == (4, False)
    last |= {(4, s): outcome(0.5, 0.9, seed=s) for s in seeds}
    found = ranking.verdict(last)
    assert found.is_taken
    assert found.change == pytest.approx(-0.1, abs=1e-3)
    assert found.by_seed == pytest.approx([-0.1, -0.1], abs=1e-3)
    # Better on the whole, and worse with one seed: that may be the seed.
    uneven = last | {(4, 2): outcome(0.5, 0.2, seed=2), (4, 3): outcome(0.5, 1.1, seed=3)}
    assert ranking.verdict(uneven).change < -0.1 and not ranking.verdict(uneven).is_taken
    # The noise between seeds is that of all candidates: two differences of 0.2, one of 0.
    noisy = last | {(0, 2): outcome(1.0, 0.9), (0, 3): outcome(1.0, 1.1)}
    noisy |= {(7, 2): outcome(0.9, 0.3), (7, 3): outcome(0.9, 0.1)}
    found = ranking.verdict(noisy)
    assert found.seed_error == pytest.approx(np.sqrt((0.2**2 + 0.2**2) / (2 * 3)), abs=1e-4)
    assert (found.freedom, found.is_taken) == (3, False)
    # A seed that one of them had no time for does not count, for none of them.
    del last[4, 3]
    assert (ranking.verdict(last).winner, len(ranking.verdict(last).by_seed)) == (4, 1)
    # Luck on the photos kept apart alone does not make a winner.
    lucky = {(0, 2): outcome(1.0, 1.0), (4, 2): outcome(1.2, 0.5)}
    assert (ranking.verdict(lucky).winner, ranking.verdict(lucky).is_taken) == (4, False)
    alone = {(0, 2): outcome(1.0), (4, 2): Outcome(diverged="x")}
    assert "no other candidate" in str(ranking.verdict(alone))
    # Of one seed each, nothing tells how much a seed changes.
    once = ranking.verdict({(0, 2): outcome(1.0, 1.0), (4, 2): outcome(0.5, 0.5)})
    assert (once.change, once.is_taken) == (pytest.approx(-0.5, abs=1e-3), False)
    assert "nothing tells how much a seed changes" in str(once)
    assert "diverged" in str(ranking.verdict({(0, 2): Outcome(diverged="x")}))


def last_rung(rng, noise: float, gain: float) -> dict[tuple[int, int], Outcome]:
    """Four settings with two seeds, one of them better by ``gain``: 300 photos choose, 300 judge.

    noise: standard deviation of the log-loss between seeds; photos' losses correlate by 0.7.
    """
    better = rng.normal(0, noise, (4, 2)) - gain * (np.arange(4) == 1)[:, None]
    losses = rng.normal(1, 0.7**0.5, (2, 1, 1, 300)) + rng.normal(0, 0.15**0.5, (2, 4, 1, 300))
    losses = losses + rng.normal(0, 0.15**0.5, (2, 4, 2, 300)) + better[..., None]
    right = [True] * 300
    return {
        (n, seed): Outcome(losses[0, n, seed].tolist(), right, losses[1, n, seed].tolist(), right)
        for n in range(4)
        for seed in range(2)
    }


@pytest.mark.parametrize(("noise", "finds"), [(0.02, 0.4), (0.05, 0.2)])
def test_noise_is_taken_in_one_search_of_twenty_at_most(noise, finds):
    def taken(gain: float) -> float:
        rng = np.random.default_rng(0)
        verdicts = [ranking.verdict(last_rung(rng, noise, gain)) for _ in range(500)]
        return float(np.mean([verdict.is_taken for verdict in verdicts]))

    assert taken(0.0) < 0.06
    assert taken(0.1) > finds


# --- The search, with trainings that are pretended ------------------------------------------------


class Pretended:
    """Log-loss by how far the rate is from the best one; nothing else matters but a little."""

    def __init__(self) -> None:
        self.tasks: list[tuple[int, int, int]] = []
        self.kill_after = sys.maxsize

    def __call__(self, task: Task, is_last: bool) -> Outcome:
        if len(self.tasks) >= self.kill_after:
            raise KeyboardInterrupt
        self.tasks.append((task.number, task.rung, task.cfg.seed))
        disk.write_atomic(trial.weights(task.folder), b"weights")
        away = abs(np.log10(task.cfg.lr / BEST))
        loss = 0.5 + away + (0.05 if task.cfg.mix else 0.0)
        return outcome(loss, loss, spread=1.5, seed=task.cfg.seed + 100 * task.number)


def a_search(
    folder: Path,
    train,
    seconds: float = 600.0,
    text: str = SPACE,
    began: float | None = None,
    **changes,
) -> Search:
    base = BASE.replace(**changes)
    book = Book(folder, base, space.read(text, base), {"minutes": seconds / 60, "space": text})
    if began is not None:
        book.began = began
    return Search(book, seconds, plan.ladder(base.stages[-1].size), train)


@pytest.fixture(params=["Optuna", "Sobol"])
def proposes(request, monkeypatch):
    if request.param == "Sobol":
        monkeypatch.setattr(propose.importlib.util, "find_spec", lambda name: None)
    return request.param


def test_the_best_rate_is_found_within_forty_candidates(tmp_path, proposes):
    search = a_search(tmp_path / "tune", Pretended())
    state = search.run()
    found = findings.read(search.book, search.proposer)
    assert len(state.rungs[0].numbers) <= plan.MOST
    assert found.taken
    assert 0.5 < float(found.points[found.taken]["lr"]) / BEST < 2
    assert found.agreements()[0][2].tau == 1  # by construction
    assert len(found.table()) == len(search.train.tasks)
    assert (proposes in search.proposer.name) is True
    largest = max(found.importance, key=found.importance.get, default=None)
    assert largest == ("lr" if proposes == "Optuna" else None)


def test_a_search_that_is_killed_goes_on_to_the_same_trials(tmp_path, proposes):
    whole = a_search(tmp_path / "whole", Pretended(), 200.0)
    whole.run()
    parts, done = tmp_path / "parts", []
    for kill_after in (0, 3, 4, 7, sys.maxsize):
        train = Pretended()
        train.kill_after = kill_after
        search = a_search(parts, train, 200.0)
        with contextlib.suppress(KeyboardInterrupt):
            search.run()
        done += train.tasks
    assert done == whole.train.tasks  # each once, and in the same order
    tables = [findings.read(s.book, s.proposer).table() for s in (whole, search)]
    assert tables[0].equals(tables[1])


def test_another_search_in_the_folder_is_an_error_or_put_aside(tmp_path):
    folder = tmp_path / "tune"
    a_search(folder, Pretended(), 200.0).run()
    other = a_search(folder, Pretended(), 200.0, "lr=1e-4:1e-3 ema=0,0.98")
    with pytest.raises(ConfigError, match="space .*choose another --out"):
        other.run()
    other.anew = True
    other.run()
    assert (tmp_path / "tune.earlier1" / "search.json").is_file()
    assert other.train.tasks


def test_a_search_at_which_others_are_at_work_is_not_put_aside(tmp_path):
    folder = tmp_path / "tune"
    live = a_search(folder, Pretended(), 200.0)
    other = a_search(folder, Pretended(), 200.0, "lr=1e-4:1e-3 ema=0,0.98")
    other.anew = True  # as in a run with tune_minutes
    with live.book.opened(anew=False):
        for search in (other, a_search(folder, Pretended(), 200.0, resume=False)):
            with pytest.raises(ConfigError, match="another process is at work .* wait for it"):
                search.run()
            assert search.train.tasks == []
        shares = a_search(folder, Pretended(), 200.0)
        shares.run()
        assert shares.train.tasks
    assert [path.name for path in tmp_path.iterdir()] == ["tune"]
    other.run()
    assert (tmp_path / "tune.earlier1").is_dir()


def test_too_little_time_and_too_small_a_space_are_said(tmp_path):
    train = Pretended()
    with pytest.raises(InputError, match="0.5 minutes are too little: .* expected"):
        a_search(tmp_path / "a", train, 30.0).run()
    assert len(train.tasks) == 1
    more = a_search(tmp_path / "a", train, 300.0)  # as it said
    more.run()
    assert [number for number, *_ in train.tasks].count(0) == 3  # the first training counts
    with pytest.raises(InputError, match="^tune_space: 2 different settings"):
        a_search(tmp_path / "b", Pretended(), text="ema=0,0.98").run()


def test_a_small_space_is_gone_through_once(tmp_path, proposes):
    search = a_search(tmp_path, Pretended(), text="ema=0,0.98 optimizer=adam,adamw,sgd")
    state = search.run()
    numbers = state.rungs[0].numbers
    cfgs = [search.book.cfg_of(n) for n in numbers]
    assert 4 <= len(numbers) <= 6
    assert all(cfg not in cfgs[:i] for i, cfg in enumerate(cfgs))


def test_candidates_that_diverge_are_not_trained_twice(tmp_path):
    class Diverging(Pretended):
        def __call__(self, task: Task, is_last: bool) -> Outcome:
            found = super().__call__(task, is_last)
            return Outcome(seconds=5.0, diverged="the loss is nan") if task.cfg.mix else found

    search = a_search(tmp_path, Diverging(), 300.0)
    state = search.run()
    found = findings.read(search.book, search.proposer)
    later = {n for rung in state.rungs[1:] for n in rung.numbers}
    assert not [n for n in later if found.points[n]["mix"]]
    assert any("diverged" in reason for reason in found.climbs[0].reasons.values())
    search = a_search(tmp_path, Diverging(), 300.0)
    search.run()
    assert search.train.tasks == []


def test_weights_of_those_that_stay_behind_are_removed(tmp_path):
    class Leaving(Pretended):
        def __call__(self, task: Task, is_last: bool) -> Outcome:
            assert task.start is None or task.start.is_file()
            for name in ("best.weights.h5", "last.weights.h5", "state/1.npz"):
                disk.write_atomic(task.folder / name, b"weights")
            found = super().__call__(task, is_last)
            return Outcome(seconds=9.0, diverged="nan") if task.cfg.ema else found

    search = a_search(tmp_path, Leaving(), 2000.0)
    state = search.run()
    assert len(state.rungs) > 2
    assert [*tmp_path.rglob("*.weights.h5"), *tmp_path.rglob("*.npz")] == []


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only in trainings: by pixels, and ten times as many of some candidates."""
    now = [0.0]
    monkeypatch.setattr(books.time, "monotonic", lambda: now[0])

    class Timed(Pretended):
        def __call__(self, task: Task, is_last: bool) -> Outcome:
            slow = 10 if task.cfg.ema else 1
            stage = task.cfg.stages[-1]
            epoch = slow * 5e-4 * stage.height * stage.width
            seconds = 12.0 + stage.epochs * epoch
            now[0] += seconds
            found = super().__call__(task, is_last)
            return replace(found, seconds=seconds, epoch_seconds=epoch)

    return now, Timed


@pytest.mark.parametrize("seconds", [400.0, 1200.0, 5000.0])
def test_the_time_is_kept_also_where_some_candidates_are_ten_times_slower(tmp_path, clock, seconds):
    now, timed = clock
    search = a_search(tmp_path / "tune", timed(), seconds, began=0.0)
    search.run()
    assert 0.6 * seconds < now[0] < 1.1 * seconds
    assert findings.read(search.book, search.proposer).verdict.winner


def test_where_all_of_a_rung_diverges_the_one_before_tells(tmp_path):
    class Later(Pretended):
        def __call__(self, task: Task, is_last: bool) -> Outcome:
            found = super().__call__(task, is_last)
            return Outcome(seconds=9.0, diverged="nan") if task.rung == 2 and not is_last else found

    search = a_search(tmp_path, Later(), 2000.0)
    rungs = search.run().rungs
    assert rungs[-1].is_last and len(rungs) == 3
    assert findings.read(search.book, search.proposer).taken


def test_candidates_are_not_proposed_where_trainings_diverge(tmp_path):
    class Fragile(Pretended):
        def __call__(self, task: Task, is_last: bool) -> Outcome:
            found = super().__call__(task, is_last)
            return Outcome(seconds=9.0, diverged="nan") if task.cfg.lr > 1e-3 else found

    search = a_search(tmp_path, Fragile(), 4000.0, lr=5e-4)
    search.run()
    wild = [search.book.cfg_of(n).lr > 1e-3 for n in range(plan.MOST)]
    assert sum(wild[20:]) < 0.7 * 20  # half of the range, by chance


def test_a_journal_that_a_power_cut_has_torn_is_begun_anew(tmp_path, capsys):
    train = Pretended()
    train.kill_after = 4
    with pytest.raises(KeyboardInterrupt):
        a_search(tmp_path, train, 200.0).run()
    with (tmp_path / propose.JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "wor\n')
    again = a_search(tmp_path, Pretended(), 200.0)
    again.run()
    assert again.train.tasks and "damaged" in capsys.readouterr().out


def test_resume_false_searches_anew(tmp_path):
    a_search(tmp_path / "tune", Pretended(), 200.0).run()
    anew = a_search(tmp_path / "tune", Pretended(), 200.0, resume=False)
    anew.run()
    assert anew.train.tasks
    assert (tmp_path / "tune.earlier1").is_dir()


def test_photos_that_no_longer_chose_are_those_of_the_last_rung(tmp_path):
    search = a_search(tmp_path, Pretended())
    rungs = search.run().rungs
    seeds = {rung.is_last: {seed for _, seed in search.book.trials(rung)} for rung in rungs}
    assert seeds[False] == {1}
    assert seeds[True] == {2, 3}
    assert rungs[-1].numbers[0] == books.BASE
    assert [rung.is_last for rung in rungs].count(True) == 1


class Slow(Pretended):
    """Takes a moment, and notes each training in a file of its own process."""

    def __init__(self, notes: Path):
        super().__init__()
        self.notes = notes

    def __call__(self, task: Task, is_last: bool) -> Outcome:
        time.sleep(0.05)
        with self.notes.open("a") as file:
            file.write(f"{task.number} {task.rung} {task.cfg.seed}\n")
        return super().__call__(task, is_last)


def test_two_that_work_on_a_search_share_it_and_repeat_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(halving, "WAIT", 0.02)
    notes = [tmp_path / f"{n}.txt" for n in range(2)]
    # Locks are of open files, so that threads exclude each other as processes do.
    searches = [a_search(tmp_path / "tune", Slow(note), 300.0) for note in notes]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Search.run, searches))
    done = [note.read_text().split("\n")[:-1] for note in notes]
    assert all(done)  # both worked
    assert len(set(done[0] + done[1])) == len(done[0] + done[1])
    search = a_search(tmp_path / "tune", Pretended(), 300.0)
    search.run()
    assert search.train.tasks == []  # nothing is left to do
    assert findings.read(search.book, search.proposer).verdict.winner


def test_a_damaged_file_of_a_search_is_named(tmp_path):
    search = a_search(tmp_path, Pretended(), 200.0)
    search.run()
    path = (
        search.book.folder
        / "000"
        / next(p.name for p in (tmp_path / "000").iterdir() if p.is_dir())
    )
    (path / trial.NOTE).write_text("{}")
    again = a_search(tmp_path, Pretended(), 200.0)
    again.run()
    assert len(again.train.tasks) == 1  # made anew
    (tmp_path / books.STATE).write_text("{")
    with pytest.raises(InputError, match="search.json: not as a search has left it"):
        a_search(tmp_path, Pretended(), 200.0).run()


def test_a_stop_ends_a_search_at_once(tmp_path, monkeypatch):
    from carcls import stops

    search = a_search(tmp_path, Pretended(), 200.0)
    monkeypatch.setattr(stops, "check", lambda: (_ for _ in ()).throw(errors.Stopped("SIGTERM")))
    with pytest.raises(errors.Stopped):
        search.run()
    assert json.loads((tmp_path / books.STATE).read_text())["rungs"]  # what it has decided stays


def test_config_knows_the_search() -> None:
    assert Config().tune_minutes == 0
