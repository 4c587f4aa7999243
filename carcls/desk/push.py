"""``make push``: kernel.py and kernel-metadata.json in a clean folder, checked, and sent by the kaggle command."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carcls import config, disk
from carcls.desk import bundle, offline
from carcls.desk import kaggle as remote
from carcls.errors import ConfigError, InputError
from carcls.nets import registry as backbones

FOLDER = Path("build/kernel")
METADATA = "kernel-metadata.json"
PLACEHOLDER = "INSERT_YOUR_USERNAME"
# Values as Kaggle names them; NvidiaTeslaT4 is two of them.
ACCELERATORS = {
    "t4": {"machine_shape": "NvidiaTeslaT4", "enable_gpu": True, "enable_tpu": False},
    "tpu": {"machine_shape": "TpuV5E8", "enable_gpu": False, "enable_tpu": True},
}
_KNOWN = {
    "id",
    "id_no",
    "title",
    "code_file",
    "language",
    "kernel_type",
    "is_private",
    "enable_gpu",
    "enable_tpu",
    "enable_internet",
    "machine_shape",
    "dataset_sources",
    "competition_sources",
    "kernel_sources",
    "model_sources",
    "keywords",
    "docker_image",
    "docker_image_pinning_type",
}
_NAME = r"[A-Za-z0-9][\w-]*"
_SOURCES = {
    "dataset_sources": (rf"{_NAME}/{_NAME}", "owner/slug"),
    "competition_sources": (_NAME, "slug"),
    "kernel_sources": (rf"{_NAME}/{_NAME}", "owner/slug"),
    "model_sources": (
        rf"{_NAME}/{_NAME}/{_NAME}/[\w.-]+/\d+",
        "owner/model/framework/variation/version",
    ),
}


@dataclass(frozen=True)
class Request:
    """What to push, as the command line says it."""

    words: Sequence[str] = ()  # of SET
    accelerator: str = ""  # key of ACCELERATORS; empty: as the metadata has it
    title: str = ""  # empty: as the metadata has it; the slug follows
    owner: str = ""  # empty: whom the kaggle command acts as
    datasets: Sequence[str] = ()  # to attach besides what the weights need
    kernels: Sequence[str] = ()  # whose output to attach


def slug(title: str) -> str:
    """A title as Kaggle makes it part of an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def build(
    request: Request, template: Path = Path(METADATA), folder: Path = FOLDER
) -> dict[str, Any]:
    """Make the folder anew with kernel.py and its metadata, checked; returns the metadata.

    Raises ConfigError on settings that cannot be used, InputError on all else that Kaggle would refuse.
    """
    files = offline.box_files(config.from_words(list(request.words), bundle.PRESET))
    settings = bundle.settings(list(request.words))  # with the names of those files alone
    cfg = config.parse({"preset": bundle.PRESET, **settings})
    _refuse(cfg, request)
    data = _complete(_read(template), cfg, settings, request, files)
    text = bundle.text(settings)
    if folder.exists():
        shutil.rmtree(folder)
    disk.write_atomic(folder / str(data.get("code_file") or "kernel.py"), text)
    disk.write_atomic(folder / METADATA, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    problems = check(folder)
    if problems:
        raise InputError("; ".join([f"{template}: nothing was sent", *problems]))
    return data


def _read(template: Path) -> dict[str, Any]:
    try:
        found = json.loads(template.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{template}: not a JSON file ({error}); run this in the repository"
        ) from None
    if not isinstance(found, dict):
        raise InputError(
            f"{template}: holds {type(found).__name__}; expected a kernel's metadata by name"
        )
    return found


def _refuse(cfg: config.Config, request: Request) -> None:
    """What is right here and wrong in a kernel. Raises ConfigError."""
    named = [
        ("data", cfg.data, ""),
        (
            "earlier",
            cfg.earlier,
            "; make push EARLIER=owner/slug attaches an earlier version's output",
        ),
    ]
    for mine in cfg.of_members():
        if mine.weights not in ("imagenet", "none"):
            dataset = offline.dataset_id("you", mine.backbone)
            more = f'; make dataset SET="…" uploads weights, and with DATASET={dataset} weights=imagenet finds them'
            named.append(("weights", mine.weights, more))
        if mine.augment not in config.POLICIES:
            named.append(("augment", mine.augment, ""))
    for name, path, more in named:
        if path and not path.startswith("/kaggle/"):
            raise ConfigError(f"{name}={path}: a kernel sees only what begins with /kaggle/{more}")
    if cfg.out not in ("", "/kaggle/working"):
        raise ConfigError(
            f"out={cfg.out}: what a kernel leaves is /kaggle/working, its default; leave out out"
        )
    if request.accelerator and request.accelerator not in ACCELERATORS:
        raise ConfigError(
            f"ACCELERATOR={request.accelerator}: expected one of {', '.join(ACCELERATORS)}"
        )
    if request.accelerator == "tpu" and cfg.backend == "tensorflow":
        raise ConfigError(
            "backend=tensorflow with ACCELERATOR=tpu: Kaggle's TensorFlow cannot drive it; expected jax"
        )


def _complete(
    data: dict[str, Any],
    cfg: config.Config,
    settings: dict[str, Any],
    request: Request,
    boxes: Sequence[Path],
) -> dict[str, Any]:
    """The repository's metadata with owner, title, accelerator and what is to be attached."""
    data = dict(data)
    if request.title:
        data |= {
            "title": request.title,
            "id": f"{str(data.get('id') or '').partition('/')[0]}/{slug(request.title)}",
        }
    owner, _, rest = str(data.get("id") or "").partition("/")
    if request.owner or owner in ("", PLACEHOLDER):
        owner = request.owner or remote.username()
        data["id"] = f"{owner}/{rest}"
    data |= ACCELERATORS.get(request.accelerator, {})
    if data.get("enable_tpu") is True:
        data.pop("docker_image", None)  # the TPU has an image of its own
    if cfg.monitor_url and not data.get("enable_internet"):
        print(
            "monitor_url is set, so the kernel gets the internet, which the competition's rules must allow"
        )
        data["enable_internet"] = True
    if "competition" in settings:
        data["competition_sources"] = [cfg.competition]
    # Weights follow the networks: models of networks that are not asked for only make the kernel
    # slower to start.
    known = {backbone.model for backbone in backbones.REGISTRY.values() if backbone.model}
    models, datasets = (
        [m for m in _list(data, "model_sources") if m not in known],
        _list(data, "dataset_sources"),
    )
    for mine in bundle.networks(cfg):
        model = backbones.find(mine.backbone).model
        if model:
            models.append(model)
        elif not request.datasets:
            datasets.append(offline.dataset_id(owner, mine.backbone))
        else:
            print(f"weights of {mine.backbone} are expected in {', '.join(request.datasets)}")
    if boxes:
        datasets.append(offline.boxes_id(owner, boxes))
    data["model_sources"] = models
    data["dataset_sources"] = list(dict.fromkeys([*datasets, *request.datasets]))
    data["kernel_sources"] = list(dict.fromkeys([*_list(data, "kernel_sources"), *request.kernels]))
    return data


def _list(data: dict[str, Any], name: str) -> list[Any]:
    found = data.get(name) or []
    return (
        list(found) if isinstance(found, list) else [found]
    )  # check then complains of what is in it


def check(folder: Path) -> list[str]:
    """All that Kaggle would refuse or misread in a folder to push, a line each."""
    data = _read(folder / METADATA)
    found = [
        f"{name}: unknown, and Kaggle would ignore it in silence"
        for name in sorted(set(data) - _KNOWN)
    ]
    owner, _, name = str(data.get("id", "")).partition("/")
    title = data.get("title")
    if not re.fullmatch(_NAME, owner) or owner == PLACEHOLDER:
        found.append(
            f"id={data.get('id')!r}: expected owner/slug with your user name on Kaggle as owner"
        )
    if not re.fullmatch(r"[a-z0-9-]{5,}", name):
        found.append(f"id={data.get('id')!r}: slug {name!r}; expected at least 5 of a–z, 0–9 and -")
    if not isinstance(title, str) or len(title) < 5:
        found.append(f"title={title!r}: expected at least 5 characters")
    elif re.search(r"[^ -~]|\d,\d|&", title):
        found.append(
            f"title={title!r}: how Kaggle spells it in an address is not sure; expected a–z, 0–9, spaces and -"
        )
    elif slug(title) != name:
        found.append(
            f"title={title!r} has the slug {slug(title)!r}, id has {name!r}; expected the same"
        )
    for key, expected in (("language", "python"), ("kernel_type", "script")):
        if data.get(key) != expected:
            found.append(f"{key}={data.get(key)!r}: expected {expected!r}")
    for key in ("is_private", "enable_gpu", "enable_tpu", "enable_internet"):
        if not isinstance(data.get(key), bool):  # left out, internet would be on
            found.append(f"{key}={data.get(key)!r}: expected true or false")
    shape = {key: data.get(key) for key in ("machine_shape", "enable_gpu", "enable_tpu")}
    if shape not in ACCELERATORS.values():
        rows = " or ".join(str(values) for values in ACCELERATORS.values())
        found.append(f"{shape}: expected {rows}")
    if data.get("enable_tpu") and "docker_image" in data:
        found.append("docker_image: a TPU has an image of its own; expected none")
    for key, (pattern, form) in _SOURCES.items():
        rows = data.get(key, [])
        bad = (
            [rows]
            if not isinstance(rows, list)
            else [r for r in rows if not re.fullmatch(pattern, str(r))]
        )
        found += [f"{key}: {row!r}; expected {form}" for row in bad]
        if isinstance(rows, list) and key in ("dataset_sources", "kernel_sources"):
            found += [
                f"{key}: {row!r}; its slug has fewer than 5 characters"
                for row in rows
                if row not in bad and len(row.partition("/")[2]) < 5
            ]
    code = folder / str(data.get("code_file"))
    if not code.is_file():
        found.append(f"code_file={data.get('code_file')!r}: no such file in {folder}")
    elif code.stat().st_size > bundle.LIMIT:
        found.append(f"{code}: {code.stat().st_size} bytes; Kaggle takes less than {bundle.LIMIT}")
    return found


def push(data: dict[str, Any], folder: Path = FOLDER, seconds: float = remote.SECONDS) -> str:
    """Send a folder that ``build`` made; returns the line with version and address.

    Raises InputError with Kaggle's words if it refused, wholly or an input, or gave no answer in time.
    """
    for dataset in data["dataset_sources"]:  # a kernel that lacks one would be started all the same
        _expect_ready(dataset)
    reply = remote.call("kernels", "push", "-p", str(folder), seconds=seconds)
    doing = f"push of {data['id']}"
    if reply.code or "successfully pushed" not in reply.text:
        taken = re.search(r"already in use|409|Conflict", reply.text)
        raise remote.refused(
            doing, reply, 'choose another title: make push TITLE="my cars"' if taken else ""
        )
    if "not valid" in reply.text:
        raise InputError(
            f"{doing}: it runs, but without an input, so it will fail. Kaggle said: {reply.words}"
        )
    line = next(line for line in reply.text.splitlines() if "successfully pushed" in line)
    address = re.search(r"/code/([\w-]+/[\w-]+)", line)
    _expect_models(address[1] if address else data["id"], data["model_sources"])
    return line


def _expect_models(kernel: str, models: list[str]) -> None:
    """Kaggle's answer names models that it did not attach too, but the command (2.2.4) does not print them, so ask."""
    if not models:
        return
    with tempfile.TemporaryDirectory() as folder:
        pulled = Path(folder) / METADATA
        try:
            words = remote.call("kernels", "pull", kernel, "-p", folder, "-m").words
        except InputError as error:
            words = str(error)
        if not pulled.is_file():  # the push itself was done
            print(f"warning: whether the models are attached is not known: {words}")
            return
        attached = json.loads(pulled.read_text(encoding="utf-8")).get("model_sources") or []
    if len(attached) < len(set(models)):
        raise InputError(
            f"push of {kernel}: it runs, but without all of its models, so it will fail. Attached: "
            f"{', '.join(attached) or 'none'}; expected {', '.join(models)}"
        )


def _expect_ready(dataset: str) -> None:
    state, words = offline.status(dataset)
    if state != "ready":
        found = "is not there" if state is None else f"is {state}"
        raise InputError(
            f"dataset {dataset} {found} (Kaggle said: {words}); nothing was sent. Make it with make dataset and the same SET, "
            'or name others with DATASET="owner/slug …", and boxes that are in one as boxes=/kaggle/input/…'
        )


def lines(data: dict[str, Any], words: Sequence[str], folder: Path = FOLDER) -> list[str]:
    """What goes to Kaggle, to read before and after."""
    machine = next(
        (
            name
            for name, values in ACCELERATORS.items()
            if values["machine_shape"] == data["machine_shape"]
        ),
        "",
    )
    names = {
        "competition": "competition_sources",
        "model": "model_sources",
        "dataset": "dataset_sources",
        "output of": "kernel_sources",
    }
    attached = [f"{what} {source}" for what, key in names.items() for source in data.get(key, [])]
    size = (folder / data["code_file"]).stat().st_size
    return [
        f"kernel     {folder / data['code_file']}, {size / 1000:.0f} kB, SETTINGS {' '.join(words) or 'as they are'}",
        f"name       {data['id']}, {'private' if data['is_private'] else 'public'}, accelerator {machine}, "
        f"internet {'on' if data['enable_internet'] else 'off'}",
        *(f"attached   {source}" for source in attached),
    ]
