"""kernel.py: every module of the package but the desk's, as readable text in one script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from carcls import config, disk, record
from carcls.config import Config
from carcls.errors import InputError
from carcls.nets import registry

LIMIT = 900_000  # bytes; Kaggle refuses a source of 1 MB
PRESET = "kaggle"  # what kernel.py starts from
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (".", "data", "nets", "train", "votes", "report", "search")  # in the order of the floors

_HEAD = '''"""carcls on Kaggle: trains on the competition's photos and writes submission.csv.

What it needs, attached with Add Input in the editor (`make push` attaches it by itself):
{needs}
Change SETTINGS below if you like, then run; the internet may stay off. What is missing is named in
the first seconds, before anything is trained.

It writes to /kaggle/working: submission.csv, from the first epoch on and replaced whenever there is
a better-founded one; submission.json, what made it and its score on validation; report.html with
every picture and table; result.json; and a folder member1, member2, … for each network, with its
epochs, its weights and the votes of every test-time view.

To go on from a version that was stopped or ran out of time, attach its output (Add Input, Your
Work) and run the same settings again. Training goes on after the last whole epoch; what other
settings change is made anew, and the log says what.

The modules of the package follow as text; a table of contents stands before them. They are unpacked
into a temporary folder and imported from there, so tracebacks show their lines. `make kernel`
generates this file: change the modules, not the text here.
"""

# Any other setting of the package's Config can be added here.
SETTINGS = {
    "preset": "kaggle",  # HGNetV2-B5, photos growing to 384x512; "kaggle_best": 3 networks
    # "stages": "192x256x6,288x384x6,384x512x4",  # HEIGHTxWIDTHxEPOCHS; time grows with all three
    # "backbone": "efficientnetv2_b0",  # a lighter network; attach its weights too
    # "views": "4-32",  # 4 views of every test photo, up to 32 where they disagree; "8": 8 of each
    # "members": "seed=1+seed=2",  # an ensemble; time grows with the number of networks
    # "folds": 5,  # networks per member, each validated on another part of the photos
    # "pseudo": 3,  # epochs more with test photos that all views agree on; kept if they do no harm
    # "refit_epochs": 3,  # epochs more on train and validation photos together, once measured
    # "augment": "medium",  # light, medium or none
    # "boxes": "boxes_efficientnet_lite_b0.csv",  # cut photos to them; see `carcls boxes`
    # "tune_minutes": 60,  # search for better settings at small sizes first, in this time
    # "budget_minutes": 300,  # end in this time; without it, in the session's 12 hours (TPU: 9)
    # "resume": False,  # start anew, whatever earlier version's output is attached
    # "monitor_url": "",  # where to post progress; needs the internet
    # "notify_url": "",  # where to post a short text at start, end and failure; likewise
    # "accelerator": "t4",  # or "tpu": stop at once where there is none
}
'''

_MAIN = '''

def main():
    """Unpack the package, check that everything is attached, and run."""
    import sys
    import tempfile
    import time
    from pathlib import Path

    start = time.monotonic()
    try:
        folder = Path(tempfile.mkdtemp(prefix="carcls-"))
        for name, text in MODULES.items():
            target = folder / "carcls" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk
        print(f"carcls: cannot be unpacked ({error})", file=sys.stderr)
        raise SystemExit(2) from None
    # The text of this cell runs, not an installed package, nor what a cell has unpacked before.
    for name in [name for name in sys.modules if name.partition(".")[0] == "carcls"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))

    from carcls import errors

    if not errors.__file__.startswith(str(folder)):
        raise SystemExit(f"carcls: {errors.__file__} comes before what this script has unpacked")

    def work():
        from carcls import config, machine, memory, record
        from carcls.nets import weights

        cfg = config.parse(SETTINGS)
        machine.expect_accelerator(cfg)
        print("== attached", *weights.check_attached(cfg), sep="\\n  ")
        earlier = record.find_earlier(cfg) if cfg.resume else None
        if earlier:
            print(f"  earlier run: {earlier}")
        print(f"  unpacked and checked in {time.monotonic() - start:.1f} s")
        memory.check_limit()

        from carcls import spine  # after the checks: it imports TensorFlow, which takes seconds

        spine.run(cfg)

    code = errors.end_well(work)
    if code:
        raise SystemExit(code)


MODULES = {}

'''

_TAIL = """

if __name__ == "__main__":
    main()
"""


def text(settings: dict[str, Any] | None = None) -> str:
    """The whole of kernel.py with these SETTINGS, byte for byte the same for the same sources.

    Raises InputError if it cannot be made, ConfigError on settings that cannot be used.
    """
    cfg = config.parse({"preset": PRESET, **(settings or {})})
    head = _with_settings(_HEAD.replace("{needs}", _needs(cfg)), settings or {}) + _MAIN
    modules = sorted((p.relative_to(_PACKAGE) for p in record.bundled(_PACKAGE)), key=_place)
    sources = {m.as_posix(): (_PACKAGE / m).read_text(encoding="utf-8") for m in modules}
    blocks = {name: _block(name, source) for name, source in sources.items()}
    whole = head + _contents(sources, blocks, head.count("\n")) + "".join(blocks.values()) + _TAIL
    size = len(whole.encode())
    if size > LIMIT:
        raise InputError(f"kernel.py would have {size} bytes; Kaggle takes less than {LIMIT}")
    return whole


def _place(module: Path) -> tuple[int, bool, str]:
    """Sorts modules for a reader: the spine, what it calls, then the folders."""
    return _FOLDERS.index(str(module.parent)), module.name != "spine.py", module.name


def _block(name: str, source: str) -> str:
    """A module as text. Raises InputError if Python could not read it back."""
    if "'''" in source or source.rstrip("\n").endswith("\\"):
        raise InputError(
            f"carcls/{name}: has three single quotes or ends with a backslash; "
            "kernel.py cannot hold it as text"
        )
    heading = f"# ===== carcls/{name} "
    return f"\n\n{heading:=<80}\nMODULES[\"{name}\"] = r'''{source}'''\n"


def _contents(sources: dict[str, str], blocks: dict[str, str], above: int) -> str:
    """The table of contents, ``above`` so many lines: where each module is, and what it does."""
    rows = ["# Contents: line, module, what it does"]
    wide = max(map(len, sources))
    line = above + len(rows) + len(sources)
    for name, source in sources.items():
        title = line + 3  # two empty lines come before it
        rows.append(f"# {title:5}  {name:{wide}}  {_first_sentence(source)}".rstrip())
        line += blocks[name].count("\n")
    return "\n".join(rows) + "\n"


def _first_sentence(source: str) -> str:
    """Of a module's docstring, with which it begins."""
    found = re.match(r'"""(.*?)"""', source, re.DOTALL)
    assert found, source[:80]
    return re.split(r"(?<=\.) ", " ".join(found[1].split()))[0]


def settings(words: list[str]) -> dict[str, Any]:
    """SET's words (``folds=4``) as SETTINGS has them (``"folds": 4``). Raises ConfigError."""
    cfg = config.from_words(words, PRESET)
    found = config.settings_of(words)
    for name in set(found) - {"preset"}:
        value = getattr(cfg, name)
        if name == "boxes":  # a kernel finds an attached file by its name
            found[name] = ",".join(
                Path(file).name if file in local_boxes(value) else file for file in value.split(",")
            )
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[name] = value  # other values stay text, as given
    return found


def local_boxes(files: str) -> list[str]:
    """Those files of the setting ``boxes`` that are on this desk, not among a kernel's inputs."""
    return [file for file in files.split(",") if file and not file.startswith("/kaggle/")]


def networks(cfg: Config) -> list[Config]:
    """The settings of one member for each backbone whose weights a kernel needs attached."""
    pretrained = (member for member in cfg.member_cfgs() if member.weights == "imagenet")
    return list({member.backbone: member for member in pretrained}.values())


def _needs(cfg: Config) -> str:
    """The list of what to attach."""
    rows = [f"the competition {cfg.competition}"]
    for member in networks(cfg):
        backbone = registry.find(member.backbone)
        if backbone.model:
            owner, model, _, variation, version = backbone.model.split("/")
            rows.append(
                f"the model {owner}/{model}, framework Keras, variation {variation}, "
                f"version {version}"
            )
        else:
            rows.append(
                f"a dataset with the weights of {member.backbone}: "
                f'make dataset SET="backbone={member.backbone}"'
            )
    if cfg.boxes:
        how = ': make dataset SET="boxes=…"' if local_boxes(cfg.boxes) else ""
        rows.append(f"a dataset with {cfg.boxes}{how}")
    rows.append("an accelerator: GPU T4 x2 or TPU v5e-8; a CPU takes many times longer")
    return "\n".join(f"  {number}. {row}" for number, row in enumerate(rows, 1))


def _with_settings(head: str, settings: dict[str, Any]) -> str:
    """The head with these settings, each in the place of its line, or as the last one."""
    for name, value in settings.items():
        field = Config.model_fields.get(name)
        about = field.description if field else "what the other settings start from"
        literal = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
        line = f'    "{name}": {literal},  # {about}\n'
        own = re.search(rf'^    (# )?"{name}": .*\n', head, re.MULTILINE)
        place = own or re.search(r"^(?=}$)", head, re.MULTILINE)
        assert place is not None  # SETTINGS ends with a brace
        head = head[: place.start()] + line + head[place.end() :]
    return head


def write(target: Path) -> Path:
    """Write kernel.py; returns its path."""
    disk.write_atomic(target, text())
    return target


def check(target: Path) -> None:
    """Raise InputError if kernel.py is not what the sources give."""
    if not target.is_file() or target.read_text(encoding="utf-8") != text():
        raise InputError(
            f"{target} is not what the sources in carcls/ give; run `make kernel` and commit it"
        )
