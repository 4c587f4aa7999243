"""``make push``: kernel.py and its metadata in a clean folder, checked, and sent to Kaggle."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carcls import config, disk, record
from carcls.config import Config
from carcls.desk import bundle, kaggle, metadata, offline
from carcls.errors import ConfigError, InputError
from carcls.nets import registry
from carcls.nets.weights import accept_licence
from carcls.values import hide

FOLDER = Path("build/kernel")
OUTPUT = Path("build/output")  # where `make watch` puts what a kernel left
VERSION = "pushed.txt"  # in FOLDER: owner/slug/version of what was pushed from it
_DONE = r"successfully (pushed|saved)"  # words of the command


@dataclass(frozen=True)
class Request:
    """What to push, as the command line says it."""

    words: Sequence[str] = ()  # of SET
    accelerator: str = ""  # key of metadata.ACCELERATORS; empty: as the metadata has it
    title: str = ""  # empty: as the metadata has it; the slug follows
    owner: str = ""  # empty: whom the kaggle command acts as
    datasets: Sequence[str] = ()  # to attach besides what the weights need
    kernels: Sequence[str] = ()  # whose output to attach


def main(request: Request, send: bool = True, run: bool = True) -> None:
    """Build the folder, say what is in it, and push it. Raises as ``build`` and ``push``.

    run=False: Kaggle keeps a version that nobody has run yet.
    """
    data = build(request)
    print(*lines(data, request.words), *_notes(data, request), sep="\n", flush=True)
    if not send:
        print(f"not pushed; {FOLDER} is what `kaggle kernels push -p {FOLDER}` would send")
        return
    print(f"pushed     {push(data, run=run)}")
    print(f"next       {'make watch' if run else 'open it in the editor there, and run it'}")


def build(
    request: Request, template: Path = Path(metadata.FILE), folder: Path = FOLDER
) -> dict[str, Any]:
    """Make the folder anew with kernel.py and its metadata, checked; returns the metadata.

    Raises ConfigError on settings that cannot be used, InputError on what Kaggle would refuse.
    """
    files = offline.box_files(config.from_words(list(request.words), bundle.PRESET))
    settings = bundle.settings(list(request.words))  # with the names of those files alone
    cfg = config.parse({"preset": bundle.PRESET, **settings})
    _refuse(cfg, request)
    data = _complete(metadata.read(template), cfg, settings, request, files)
    _expect_accelerator(settings, accelerator(data))
    text = bundle.text(settings)
    if folder.exists():
        shutil.rmtree(folder)
    disk.write_atomic(folder / str(data.get("code_file") or "kernel.py"), text)
    disk.write_atomic(folder / metadata.FILE, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    problems = metadata.check(folder)
    if problems:
        raise InputError("; ".join([f"{template}: nothing was sent", *problems]))
    return data


def _refuse(cfg: Config, request: Request) -> None:
    """What is right here and wrong in a kernel. Raises ConfigError."""
    named = [
        ("data", cfg.data, ""),
        (
            "earlier",
            cfg.earlier,
            "; make push EARLIER=owner/slug attaches an earlier version's output",
        ),
    ]
    for member in cfg.member_cfgs():
        for stage in member.stages:  # whether KerasHub is installed here is of no matter
            registry.check_size(member.backbone, stage.size, f"stages={stage}")
        if member.weights not in ("imagenet", "none"):
            dataset = offline.dataset_id("you", member.backbone)
            more = (
                '; make dataset SET="…" uploads weights, and with '
                f"DATASET={dataset} weights=imagenet finds them"
            )
            named.append(("weights", member.weights, more))
        if member.augment not in config.POLICIES:
            named.append(("augment", member.augment, ""))
    for name, path, more in named:
        if path and not path.startswith("/kaggle/"):
            raise ConfigError(f"{name}={path}: a kernel sees only what begins with /kaggle/{more}")
    if cfg.out not in ("", "/kaggle/working"):
        raise ConfigError(
            f"out={cfg.out}: what a kernel leaves is /kaggle/working, its default; leave out out"
        )
    if request.accelerator and request.accelerator not in metadata.ACCELERATORS:
        why = metadata.retired(request.accelerator)
        names = f"expected one of {', '.join(metadata.ACCELERATORS)}"
        raise ConfigError(f"ACCELERATOR={request.accelerator}: {why or names}")
    if request.accelerator == "tpu" and cfg.backend == "tensorflow":
        raise ConfigError(
            "backend=tensorflow with ACCELERATOR=tpu: Kaggle's TensorFlow cannot drive it; "
            "expected jax"
        )


def _expect_accelerator(settings: dict[str, Any], asked: str) -> None:
    """Have the kernel stop where the machine that is asked for is not there, unless set otherwise.

    asked: "" where the metadata names none that there is, which its check refuses. Raises
    ConfigError where the settings expect another machine.
    """
    if asked and settings.setdefault("accelerator", asked) not in ("any", asked):
        raise ConfigError(
            f"accelerator={settings['accelerator']}: the kernel is to run on {asked}; expected "
            f"{asked} or any, or ACCELERATOR={settings['accelerator']} beside SET"
        )


def _complete(
    data: dict[str, Any],
    cfg: Config,
    settings: dict[str, Any],
    request: Request,
    boxes: Sequence[Path],
) -> dict[str, Any]:
    """The repository's metadata with owner, title, accelerator and what is to be attached."""
    data = dict(data)
    if request.title:
        data |= {
            "title": request.title,
            "id": f"{str(data.get('id') or '').partition('/')[0]}/{metadata.slug(request.title)}",
        }
    owner, _, rest = str(data.get("id") or "").partition("/")
    if request.owner or owner in ("", metadata.PLACEHOLDER):
        owner = request.owner or kaggle.username()
        data["id"] = f"{owner}/{rest}"
    data |= metadata.ACCELERATORS.get(request.accelerator, {})
    if not data.get("machine_shape"):  # a CPU
        data.pop("machine_shape", None)
    if data.get("enable_tpu") is True:
        for name in metadata.DOCKER:  # the TPU has an image of its own
            data.pop(name, None)
    for name in sorted(config.SECRETS):
        if not (address := getattr(cfg, name)):
            continue
        if data.get("is_private") is not True:
            raise ConfigError(
                f"{name}={address} in a kernel that is not private, where everybody could read "
                f"the whole of it: expected is_private true in {metadata.FILE}"
            )
        print(
            f"{name} is set: kernel.py has the whole address, for whoever may read this private "
            "kernel, and the kernel gets the internet, which the competition's rules must allow"
        )
        data["enable_internet"] = True
    if "competition" in settings:
        data["competition_sources"] = [cfg.competition]
    return _attach(data, cfg, request, boxes)


def _attach(
    data: dict[str, Any], cfg: Config, request: Request, boxes: Sequence[Path]
) -> dict[str, Any]:
    """The metadata with the weights of the networks, boxes, and what the request names."""
    owner = data["id"].partition("/")[0]
    # Models of networks that are not asked for only make the kernel slower to start.
    ours = {backbone.model for backbone in registry.REGISTRY.values() if backbone.model}
    models = [model for model in _list(data, "model_sources") if model not in ours]
    datasets = _list(data, "dataset_sources")
    for member in bundle.networks(cfg):
        model = registry.find(member.backbone).model
        if model:
            models.append(model)
        elif not request.datasets:
            datasets.append(offline.dataset_id(owner, member.backbone))
        else:
            print(f"weights of {member.backbone} are expected in {', '.join(request.datasets)}")
    if boxes:
        datasets.append(offline.boxes_id(owner, boxes))
    kernels = [*_list(data, "kernel_sources"), *request.kernels]
    return data | {
        "model_sources": models,
        "dataset_sources": list(dict.fromkeys([*datasets, *request.datasets])),
        "kernel_sources": list(dict.fromkeys(kernels)),
    }


def _list(data: dict[str, Any], name: str) -> list[Any]:
    found = data.get(name) or []
    return (
        list(found) if isinstance(found, list) else [found]
    )  # check then complains of what is in it


def push(
    data: dict[str, Any], folder: Path = FOLDER, run: bool = True, seconds: float = kaggle.SECONDS
) -> str:
    """Send a folder that ``build`` made; returns the line with version and address.

    The version that runs is noted in the folder, for ``make watch``. Raises InputError with
    Kaggle's words if it refused the push or an input, or did not answer.
    """
    for dataset in data["dataset_sources"]:  # a kernel that lacks one would be started all the same
        _expect_ready(dataset)
    how = [] if run else ["--no-run"]
    reply = kaggle.call("kernels", "push", "-p", str(folder), *how, seconds=seconds)
    doing, look = f"push of {data['id']}", f"https://www.kaggle.com/code/{data['id']}"
    if reply.code or not re.search(_DONE, reply.text):
        taken = re.search(r"already in use|409 Client|Conflict", reply.text)
        hint = 'choose another title: make push TITLE="my cars"' if taken else ""
        raise kaggle.refused(doing, reply, hint, look)
    if "not valid" in reply.text:
        raise InputError(
            f"{doing}: done, but without an input, so it will fail. Kaggle said: {reply.words}"
        )
    line = next(line for line in reply.text.splitlines() if re.search(_DONE, line))
    # A kernel that exists keeps its address whatever its title is now.
    address = re.search(r"kaggle\.com/(?:code/)?([\w-]+/[\w-]+)", line)
    version = re.search(r"version (\d+)", line)
    if not address or not version:
        raise InputError(
            f"{doing}: the answer has no version and address, as Kaggle's have, so whether it was "
            f"done is not known: look at {look} before you repeat it. The command said: {line}"
        )
    if run:
        disk.write_atomic(folder / VERSION, f"{address[1]}/{version[1]}\n")
    _expect_models(address[1], data["model_sources"])
    return line


def _expect_models(kernel: str, models: list[str]) -> None:
    """Ask which models were attached: the command (2.2.5) does not print those that were not.

    Raises InputError if some are missing.
    """
    if not models:
        return
    with tempfile.TemporaryDirectory() as folder:
        pulled = Path(folder) / metadata.FILE
        try:
            words = kaggle.call("kernels", "pull", kernel, "-p", folder, "-m").words
        except InputError as error:
            words = str(error)
        if not pulled.is_file():  # the push itself was done
            print(f"warning: whether the models are attached is not known: {words}")
            return
        attached = json.loads(pulled.read_text(encoding="utf-8")).get("model_sources") or []
    if len(attached) < len(set(models)):
        gated = [
            f"; {accept_licence(backbone)}, then push again"
            for backbone in registry.REGISTRY.values()
            if backbone.is_gated and backbone.model in set(models) - set(attached)
        ]
        raise InputError(
            f"push of {kernel}: it runs, but without all of its models, so it will fail. Attached: "
            f"{', '.join(attached) or 'none'}; expected {', '.join(models)}{''.join(gated[:1])}"
        )


def _expect_ready(dataset: str) -> None:
    state, words = offline.status(dataset)
    if state != "ready":
        found = "is not there" if state is None else f"is {state}"
        raise InputError(
            f"dataset {dataset} {found} (Kaggle said: {words}); nothing was sent. Make it with "
            'make dataset and the same SET, or name others with DATASET="owner/slug …", and boxes '
            "that are in one as boxes=/kaggle/input/…"
        )


def lines(data: dict[str, Any], words: Sequence[str], folder: Path = FOLDER) -> list[str]:
    """What goes to Kaggle, to read before and after."""
    name = accelerator(data)
    size = (folder / data["code_file"]).stat().st_size
    attached = [
        f"attached   {kind} {source}"
        for key, (kind, *_) in metadata.SOURCES.items()
        for source in data.get(key, [])
    ]
    return [
        f"kernel     {folder / data['code_file']}, {size / 1000:.0f} kB, "
        f"SETTINGS {' '.join(map(hide, words)) or 'as they are'}",
        f"name       {data['id']}, {'private' if data['is_private'] else 'public'}, "
        f"accelerator {name}, internet {'on' if data['enable_internet'] else 'off'}",
        *attached,
    ]


def accelerator(data: dict[str, Any]) -> str:
    """Key of metadata.ACCELERATORS of a kernel's metadata; "" if it names none of them."""
    shapes = {values["machine_shape"]: name for name, values in metadata.ACCELERATORS.items()}
    return shapes.get(data.get("machine_shape"), "")


def _notes(data: dict[str, Any], request: Request) -> list[str]:
    """What is allowed and may not be meant."""
    found = []
    if accelerator(data) == "cpu":
        found.append(
            "note       a CPU takes many times longer than an accelerator; training is shortened "
            "to the 12 hours of a session: choose light settings, as SET=preset=quick"
        )
    for kernel in request.kernels:
        output = OUTPUT / kernel.partition("/")[2]
        if output.is_dir() and not record.is_run(output):
            found.append(
                f"note       what make watch fetched of {kernel} has no whole epoch to go on from, "
                f"so this kernel starts anew ({output})"
            )
    return found
