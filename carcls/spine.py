"""The spine: from a folder of photos to submission.csv, top to bottom."""

from __future__ import annotations

from pathlib import Path

from carcls import session
from carcls.config import Config
from carcls.data import photos
from carcls.search import space


def run(cfg: Config) -> Path:
    """Train, vote, decide, submit; returns the path of submission.csv.

    A step whose result is in the run folder, made from the same facts, is read back. Raises
    ConfigError and InputError before training, Stopped on SIGTERM.
    """
    searched = space.of(cfg) if cfg.tune_minutes else {}
    with session.start(cfg) as s:  # lock, files, weights, machine, clock: what can fail, fails here
        # Keras reads its backend when it is imported, and the machine has chosen it only now.
        from carcls import conclusion, jobs, network
        from carcls.search import tune

        s.say("data", *photos.summary(s.table, cfg.folds))
        s.say("machine", *s.machine.reasons, f"time       {s.clock.limit}")
        network.check_views(s)
        if s.clock.is_limited:
            conclusion.most_frequent(s)  # a valid submission from the first minute on
        tuned = tune.tune(s, searched) if searched else {}  # small sizes first
        conclusion.show_data(s)  # what is worth a look while training goes on

        members: list[network.Member] = []
        for member_jobs in jobs.members(s):  # one job, or one a fold
            member = network.make_all(s, member_jobs, announces=not members)
            # Members are compared photo by photo, so each needs the folds that the first has.
            if member is None or (members and len(member.networks) < len(members[0].networks)):
                break
            members.append(member)
            decision = conclusion.decide_on(s, members)
            if len(members) < len(s.cfg.members):
                conclusion.offer_early(s, decision)
            if len(member.networks) < len(member_jobs):  # no time for its other folds
                break
        if not members:
            return conclusion.without_training(s)
        conclusion.say_decision(s, members, decision)
        phases = jobs.phases(tuned)
        result = conclusion.conclude(s, members, decision, phases)

        for plan in (jobs.pseudo_labels, jobs.refit):  # the same kind of job on more photos
            phase = plan(s, members, decision)  # no jobs if it is off or its labels are refused
            members = network.remake(s, members, phase)  # a network is kept only on evidence
            if phase.is_on:  # concluded anew, so that a kill after it leaves a whole result
                phases[phase.name] = phase
                decision = conclusion.decide_on(s, members)
                result = conclusion.conclude(s, members, decision, phases)

        conclusion.tell(s, result)
        return s.submission.path
