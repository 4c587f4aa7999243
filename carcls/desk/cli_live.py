"""The command of ``carcls`` that shows runs as they go: monitor."""

from __future__ import annotations

import argparse

from carcls.desk import manual
from carcls.desk.cli_kaggle import Add


def add_to(add: Add) -> None:
    """Add it to the command line."""
    about = "a page on which runs are watched as they go: of run folders, and of what is posted"
    sub = add("monitor", _monitor, about, manual.MONITOR)
    followed = "run folders to follow, which need not exist yet"
    sub.add_argument("runs", nargs="*", metavar="RUN_FOLDER", help=followed)
    kept = "where the token and what is posted are kept (default: monitor)"
    sub.add_argument("--folder", default="monitor", help=kept)
    host = "whose addresses reach it (default: 127.0.0.1, this machine alone)"
    sub.add_argument("--host", default="127.0.0.1", help=host)
    port = "default: 9000; 0: any that is free"
    sub.add_argument("--port", type=int, default=9000, help=port)
    load = "instead, measure a server of its own for so long: 50 runs that post, 20 streams"
    sub.add_argument("--load", type=float, default=0.0, metavar="MINUTES", help=load)


def _monitor(args: argparse.Namespace) -> None:
    if args.load:
        from carcls.desk.live import load

        load.main(args.load)
        return
    from carcls.desk.live import serve

    serve.main(args.runs, args.folder, args.host, args.port)
