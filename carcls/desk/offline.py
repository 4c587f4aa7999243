"""``make dataset``: weights and boxes that a kernel needs and Kaggle does not have, as datasets."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from carcls import config, disk, record
from carcls.data import attached, boxes
from carcls.desk import bundle, kaggle, weights
from carcls.errors import InputError
from carcls.nets import registry
from carcls.nets.hub import CONVERTER
from carcls.nets.weights import WEIGHTS_FILE, find_weights

FOLDER = Path("build/dataset")
METADATA = "dataset-metadata.json"
UPLOAD_SECONDS = 1800.0
READY_SECONDS = 600.0  # in which Kaggle unpacks what was uploaded
# Of what Kaggle's images have, that which kernel.py imports, by its name in an import. requests
# brings urllib3, jinja2 brings markupsafe, albumentations brings yaml.
_IN_IMAGES = """albumentations cv2 h5py jax jinja2 keras keras_cv keras_hub markupsafe matplotlib
numpy pandas PIL pydantic requests scipy sklearn tensorflow urllib3
yaml"""
KAGGLE_HAS = frozenset(_IN_IMAGES.split())
SPARED = frozenset({"optuna"})  # in one image only, and done without in the other


@dataclass(frozen=True)
class Dataset:
    """A folder ready to upload."""

    id: str  # owner/slug
    folder: Path
    files: tuple[str, ...]
    source: str  # a line that says where they came from


def main(words: Sequence[str], owner: str, every: bool, send: bool = True) -> None:
    """Build the datasets that kernels with these settings need, and upload them."""
    owner = owner or kaggle.username()
    print(wheels())
    for dataset in build(words, owner, every):
        size = sum((dataset.folder / file).stat().st_size for file in dataset.files)
        files = ", ".join(dataset.files)
        print(f"dataset    {dataset.folder}, {size / 1e6:.1f} MB: {files}", flush=True)
        print(dataset.source)
        print(f"pushed     {push(dataset)}" if send else "not pushed")


def dataset_id(owner: str, backbone: str) -> str:
    """The dataset with a network's weights, as it is named when it is made and when attached."""
    return f"{owner}/carcls-{backbone.replace('_', '-')}"


def box_files(cfg: config.Config) -> list[Path]:
    """The files of ``boxes`` that a kernel needs attached, because they are on this desk.

    Raises InputError if one cannot be read.
    """
    names = [Path(text).name for text in cfg.boxes.split(",")]  # a kernel finds them by these
    if len(set(names)) < len(names):
        raise InputError(
            f"boxes={cfg.boxes}: two files of one name, by which a kernel finds them; rename one"
        )
    files = [attached.box_file(text) for text in bundle.local_boxes(cfg.boxes)]
    for file in files:
        boxes.read(file)
    return files


def boxes_id(owner: str, files: Sequence[Path]) -> str:
    """The dataset with these files of ``boxes``, as it is named when it is made and when attached.

    Its name has a digest of them, so that boxes that were corrected are another dataset.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    return f"{owner}/{attached.BOXES}-{digest.hexdigest()[:8]}"


def build(
    words: Sequence[str], owner: str, every: bool = False, top: Path = FOLDER
) -> list[Dataset]:
    """A folder for each network whose weights no Kaggle model has, and one for boxes.

    every: a folder also for networks whose weights Kaggle has as a model.
    Raises ConfigError on settings that cannot be used, InputError if weights or boxes are not
    found here or do not fit.
    """
    cfg = config.from_words(list(words), bundle.PRESET)
    datasets, files = [], box_files(cfg)
    # Of members with the same network, one that needs weights is the last, and counts.
    members = sorted(cfg.member_cfgs(), key=lambda member: member.weights != "none")
    for member in {member.backbone: member for member in members}.values():
        model = registry.find(member.backbone).model
        if member.weights == "none":
            print(f"{member.backbone}: weights=none needs no dataset")
        elif model and member.weights == "imagenet" and not every:
            print(
                f"{member.backbone}: needs no dataset; `make push` attaches Kaggle's model {model}"
            )
        else:
            datasets.append(_weights(member, dataset_id(owner, member.backbone), top))
    if files:
        datasets.append(_boxes(files, boxes_id(owner, files), top))
    return datasets


def _boxes(files: Sequence[Path], name: str, top: Path) -> Dataset:
    folder = top / name.partition("/")[2]
    part = _part(folder)
    for file in files:
        shutil.copyfile(file, part / file.name)
    about = "Boxes around cars for kernels of carcls, made by `make dataset`."
    return _finish(part, folder, name, about, f"boxes      {', '.join(map(str, files))}")


def _weights(cfg: config.Config, name: str, top: Path) -> Dataset:
    if cfg.backbone in weights.PACKAGES and cfg.weights == "imagenet":
        weights.make(cfg.backbone)
    file = find_weights(cfg.backbone, cfg)
    assert file is not None  # weights=none was left out
    folder = top / name.partition("/")[2]
    part = _part(folder)
    preset = file.name == WEIGHTS_FILE
    inside = part / f"{cfg.backbone}_imagenet" if preset else part
    inside.mkdir(exist_ok=True)
    beside = ("config.json", "metadata.json", CONVERTER) if preset else ()
    for source in (file, *map(file.with_name, beside)):
        if source.is_file():
            shutil.copyfile(source, inside / source.name)
    write_manifest(part, {cfg.backbone: (inside / file.name).relative_to(part).as_posix()})
    description = (
        f"Weights of {cfg.backbone} for kernels without internet, made by `make dataset` of "
        "carcls; manifest.json has sizes and sha256. Their licence is that of where they come from."
    )
    return _finish(part, folder, name, description, f"weights    {file}")


def write_manifest(folder: Path, weights: dict[str, str]) -> Path:
    """manifest.json of all files in a folder; weights: backbone → its file, relative to it."""
    files = {}
    for subfolder, name in disk.photo_files(folder):
        if name not in (attached.MANIFEST, METADATA):
            path = PurePosixPath(subfolder, name)
            file = folder / path
            files[str(path)] = {"sha256": record.digest_of(file), "bytes": file.stat().st_size}
    content = {"format": attached.FORMAT, "weights": weights, "files": files}
    disk.write_atomic(folder / attached.MANIFEST, json.dumps(content, indent=2) + "\n")
    return folder / attached.MANIFEST


def _part(folder: Path) -> Path:
    """An empty folder to fill beside that one, which may hold what is to be copied."""
    part = folder.with_name(f".{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    return part


def _finish(part: Path, folder: Path, name: str, description: str, source: str) -> Dataset:
    """Put the part in the folder's place, with metadata that Kaggle takes. Raises InputError."""
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    title = name.partition("/")[2].replace("-", " ")
    about = {
        "title": title,
        "id": name,
        "licenses": [{"name": "other"}],
        "description": description,
    }
    disk.write_atomic(folder / METADATA, json.dumps(about, indent=2) + "\n")
    problems = check(folder)
    if problems:
        raise InputError("; ".join([f"{folder / METADATA}: nothing was sent", *problems]))
    files = tuple(
        sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    )
    return Dataset(name, folder, files, source)


def check(folder: Path) -> list[str]:
    """All that Kaggle would refuse in a dataset's metadata, a line each."""
    data = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    owner, _, slug = data["id"].partition("/")
    found = []
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        found.append(
            f"id={data['id']!r}: expected owner/slug with your user name on Kaggle as owner"
        )
    if not re.fullmatch(r"[a-z0-9-]{6,50}", slug):
        found.append(f"id={data['id']!r}: slug {slug!r}; expected 6 to 50 of a–z, 0–9 and -")
    if not 6 <= len(data["title"]) <= 50:
        found.append(f"title={data['title']!r}: {len(data['title'])} characters; expected 6 to 50")
    if len(data["licenses"]) != 1:
        found.append(f"licenses: {len(data['licenses'])}; expected exactly one")
    return found


def status(dataset: str) -> tuple[str | None, str]:
    """A dataset's state on Kaggle (ready, …; None: there is none), and Kaggle's words.

    Raises InputError if Kaggle does not answer that.
    """
    reply = kaggle.call("datasets", "status", dataset)
    if not reply.code:
        return reply.text.split()[-1] if reply.text else "unknown", reply.words
    # A dataset that is not there and one that we may not see are answered alike.
    if re.search(r"\b40[34] Client|not found|denied", reply.text, re.IGNORECASE):
        return None, reply.words
    raise kaggle.refused(f"state of dataset {dataset}", reply)


def push(dataset: Dataset, seconds: float = UPLOAD_SECONDS, every: float = 5.0) -> str:
    """Create the dataset, private, or a new version of it, and wait until it can be attached.

    Returns what was done. Raises InputError with Kaggle's words if it refused, or in time gave no
    answer.
    """
    state, _ = status(dataset.id)
    # zip: without it folders are left out in silence; Kaggle unpacks x.zip into a folder x again.
    words = ["-p", str(dataset.folder), "--dir-mode", "zip"]
    if state is None:
        reply = kaggle.call("datasets", "create", *words, seconds=seconds)
    else:
        reply = kaggle.call("datasets", "version", *words, "-m", "make dataset", seconds=seconds)
    done = "created" if state is None else "new version"
    if (
        reply.code
        or "is being created" not in reply.text
        or re.search(r"^(Skipping|Upload unsuccessful)", reply.text, re.M)
    ):
        look = f"https://www.kaggle.com/datasets/{dataset.id}"
        raise kaggle.refused(f"upload of dataset {dataset.id}", reply, look=look)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            state, words_now = status(dataset.id)
        except kaggle.NoAnswerError as error:  # the upload itself is done
            state, words_now = "unknown", str(error)
        if state == "ready":
            return f"{dataset.id}: {done}, ready to attach"
        if state in ("failed", "deleted") or time.monotonic() > deadline:
            raise InputError(
                f"dataset {dataset.id}: uploaded, but Kaggle says {words_now!r}; expected ready"
            )
        time.sleep(every)


def wheels() -> str:
    """Which packages a dataset must bring: none. Raises InputError if Kaggle lacks one."""
    found = set()
    for path in record.bundled(Path(__file__).resolve().parents[1]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    third = found - set(sys.stdlib_module_names) - {"carcls"}
    lacks = sorted(third - KAGGLE_HAS - SPARED)
    if lacks:
        raise InputError(f"kernel.py imports {', '.join(lacks)}, which Kaggle's images lack")
    count = len(third - SPARED)
    return f"wheels     none: Kaggle's images have all {count} packages that kernel.py imports"
