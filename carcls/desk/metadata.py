"""kernel-metadata.json: reading it, and every rule that Kaggle has for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from carcls.desk import bundle
from carcls.errors import InputError

FILE = "kernel-metadata.json"
PLACEHOLDER = "INSERT_YOUR_USERNAME"
# Values as Kaggle names them; NvidiaTeslaT4 is two of them. A CPU has no name, and no quota.
ACCELERATORS: dict[str, dict[str, Any]] = {
    "t4": {"machine_shape": "NvidiaTeslaT4", "enable_gpu": True, "enable_tpu": False},
    "tpu": {"machine_shape": "TpuV5E8", "enable_gpu": False, "enable_tpu": True},
    "cpu": {"machine_shape": None, "enable_gpu": False, "enable_tpu": False},
}
# Machines that Kaggle no longer has and does not refuse: by name, what it takes for each in
# silence, and what to ask for instead.
_RETIRED = (("p100", "a T4 x2", "t4"), ("v3.?8", "a TPU v5e-8", "tpu"), ("v2", "a CPU", "tpu"))
_SWITCHES = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
_NAME = r"[A-Za-z0-9][\w-]*"
# What can be attached: its kind, for people, the pattern of an address, and how it is written.
SOURCES = {
    "competition_sources": ("competition", _NAME, "slug"),
    "model_sources": (
        "model",
        rf"{_NAME}/{_NAME}/{_NAME}/[\w.-]+/\d+",
        "owner/model/framework/variation/version",
    ),
    "dataset_sources": ("dataset", rf"{_NAME}/{_NAME}", "owner/slug"),
    "kernel_sources": ("output of", rf"{_NAME}/{_NAME}", "owner/slug"),
}
_OTHERS = "id id_no title code_file language kernel_type machine_shape keywords"
DOCKER = ("docker_image", "docker_image_pinning_type")
_KNOWN = {*_SWITCHES, *SOURCES, *_OTHERS.split(), *DOCKER}


def read(template: Path) -> dict[str, Any]:
    """A kernel's metadata from its file. Raises InputError."""
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


def retired(name: str) -> str:
    """What becomes of a machine's name that Kaggle has no more, and what to take; "" of others."""
    for pattern, instead, take in _RETIRED:
        if re.search(pattern, name, re.IGNORECASE):
            return f"retired, and Kaggle would take {instead} in silence; take ACCELERATOR={take}"
    return ""


def slug(title: str) -> str:
    """A title as Kaggle makes it part of an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check(folder: Path) -> list[str]:
    """All that Kaggle would refuse or misread in a folder to push, a line each."""
    data = read(folder / FILE)
    found = [
        f"{name}: unknown, and Kaggle would ignore it in silence"
        for name in sorted(set(data) - _KNOWN)
    ]
    found += _check_name(data) + _check_kind(data)
    for key, (_, pattern, form) in SOURCES.items():
        found += _check_sources(key, data.get(key, []), pattern, form)
    code = folder / str(data.get("code_file"))
    if not code.is_file():
        found.append(f"code_file={data.get('code_file')!r}: no such file in {folder}")
    elif code.stat().st_size > bundle.LIMIT:
        found.append(f"{code}: {code.stat().st_size} bytes; Kaggle takes less than {bundle.LIMIT}")
    return found


def _check_name(data: dict[str, Any]) -> list[str]:
    """Owner, slug and title, which Kaggle makes an address of."""
    found, title, whole = [], data.get("title"), f"id={data.get('id')!r}"
    owner, _, name = str(data.get("id", "")).partition("/")
    if not re.fullmatch(_NAME, owner) or owner == PLACEHOLDER:
        found.append(f"{whole}: expected owner/slug with your user name on Kaggle as owner")
    if not re.fullmatch(r"[a-z0-9-]{5,}", name):
        found.append(f"{whole}: slug {name!r}; expected at least 5 of a–z, 0–9 and -")
    if not isinstance(title, str) or not 5 <= len(title) <= 50:
        count = len(title) if isinstance(title, str) else 0
        found.append(f"title={title!r}: {count} characters; Kaggle takes 5 to 50")
    elif re.search(r"[^ -~]|\d,\d|&", title):
        found.append(
            f"title={title!r}: how Kaggle spells it in an address is not sure; expected a–z, 0–9, "
            "spaces and -"
        )
    elif slug(title) != name:
        found.append(
            f"title={title!r} has the slug {slug(title)!r}, id has {name!r}; expected the same"
        )
    return found


def _check_kind(data: dict[str, Any]) -> list[str]:
    """What kind of kernel it is, and on which machine."""
    found = []
    for key, expected in (("language", "python"), ("kernel_type", "script")):
        if data.get(key) != expected:
            found.append(f"{key}={data.get(key)!r}: expected {expected!r}")
    for key in _SWITCHES:
        if not isinstance(data.get(key), bool):  # left out, internet would be on
            found.append(f"{key}={data.get(key)!r}: expected true or false")
    machine = {key: data.get(key) for key in ACCELERATORS["t4"]}
    if machine not in ACCELERATORS.values():
        why = retired(str(machine["machine_shape"]))
        rows = " or ".join(str(values) for values in ACCELERATORS.values())
        found.append(f"{machine}: {why or f'expected {rows}'}")
    if data.get("enable_tpu"):
        found += [
            f"{name}: a TPU has an image of its own, and with another one Kaggle gives a CPU in "
            "silence; expected none"
            for name in DOCKER
            if name in data
        ]
    return found


def _check_sources(key: str, sources: Any, pattern: str, form: str) -> list[str]:
    """What is attached of one kind."""
    found = []
    for source in sources if isinstance(sources, list) else [sources]:
        if not isinstance(sources, list) or not re.fullmatch(pattern, str(source)):
            found.append(f"{key}: {source!r}; expected {form}, in a list")
        elif form == "owner/slug" and len(source.partition("/")[2]) < 5:
            found.append(f"{key}: {source!r}; its slug has fewer than 5 characters")
    return found
