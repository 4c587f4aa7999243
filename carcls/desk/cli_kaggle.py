"""The commands of ``carcls`` that have to do with Kaggle: push, watch, dataset."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from carcls.desk import manual

Add = Callable[..., argparse.ArgumentParser]  # name, function, about, more → its parser


def add_to(add: Add) -> None:
    """Add these commands to the command line."""
    _add_push(add)
    _add_watch_and_dataset(add)


def _take_kernel_settings(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings, as for run; they start from preset=kaggle",
    )
    sub.add_argument(
        "--owner",
        default="",
        help="your user name on Kaggle (default: whom the kaggle command acts as)",
    )


def _add_push(add: Add) -> None:
    about = "build kernel.py with these settings and push it to Kaggle with the kaggle command"
    sub = add("push", _push, about, manual.PUSH)
    _take_kernel_settings(sub)
    as_is = "default: as kernel-metadata.json has it"
    sub.add_argument("--accelerator", default="", metavar="t4|tpu|cpu", help=as_is)
    sub.add_argument("--title", default="", help=f"of the kernel; its address follows ({as_is})")
    sub.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="OWNER/SLUG",
        help="attach this dataset, too; its weights are then used for networks that have no "
        "Kaggle model",
    )
    sub.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="OWNER/SLUG",
        help="attach this kernel's output",
    )
    no_run = "save it there without running it, to be run in the editor"
    sub.add_argument("--no-run", action="store_true", help=no_run)
    sub.add_argument("--no-push", action="store_true", help="build and check build/kernel only")


def _add_watch_and_dataset(add: Add) -> None:
    about = "follow a pushed kernel's log, wait for its end, download its output, say its accuracy"
    sub = add("watch", _watch, about, manual.WATCH)
    last = "default: the one pushed last, that version of it"
    sub.add_argument("kernel", nargs="?", default="", metavar="OWNER/SLUG[/VERSION]", help=last)
    submit = "then submit submission.csv, and say its public score"
    sub.add_argument("--submit", action="store_true", help=submit)
    pause = "seconds between questions for its state (default: 10)"
    sub.add_argument("--every", type=float, default=10.0, help=pause)
    page = "show it on a page meanwhile (see `carcls monitor`)"
    sub.add_argument("--page", action="store_true", help=page)
    about = "upload weights that no Kaggle model has, and boxes, for kernels without internet"
    sub = add("dataset", _dataset, about)
    _take_kernel_settings(sub)
    every = "also networks whose weights Kaggle has as a model"
    sub.add_argument("--every-network", action="store_true", help=every)
    sub.add_argument("--no-push", action="store_true", help="build build/dataset/SLUG only")


def _push(args: argparse.Namespace) -> None:
    from carcls.desk import push

    request = push.Request(
        args.settings, args.accelerator, args.title, args.owner, args.dataset, args.kernel
    )
    push.main(request, send=not args.no_push, run=not args.no_run)


def _watch(args: argparse.Namespace) -> None:
    from carcls.desk import watch

    watch.main(args.kernel, args.every, args.submit, args.page)


def _dataset(args: argparse.Namespace) -> None:
    from carcls.desk import offline

    offline.main(args.settings, args.owner, args.every_network, send=not args.no_push)
