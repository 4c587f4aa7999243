"""The command line: what its arguments mean, how it ends, and what it says of settings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from carcls import config, disk, errors
from carcls.desk import backbones, cli, sample, settings
from carcls.errors import ConfigError, InputError, Stopped, TrainingDiverged
from carcls.nets import registry

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("lr=x"), 2, "carcls: lr=x"),
        (InputError("no photos"), 2, "carcls: no photos"),
        (OSError(28, "No space left", "out/x"), 2, "carcls: out/x: No space left"),
        (TrainingDiverged("NaN", "a lower lr"), 3, "carcls: NaN; a lower lr"),
        (KeyboardInterrupt(), 130, "goes on from the last whole epoch"),
        (Stopped("SIGTERM"), 143, "carcls: stopped by SIGTERM"),
        (Stopped("SIGHUP", 1), 129, "carcls: stopped by SIGHUP"),
        (MemoryError("9 GB"), 2, "too little memory (9 GB)"),
    ],
)
def test_every_way_to_end_has_its_code_and_one_line(monkeypatch, capsys, error, code, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(sample, "draw", fail)
    assert cli.main(["sample", "somewhere"]) == code == errors.exit_code(error)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


COMMAND = [sys.executable, "-m", "carcls"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp866", "latin-1"])
def test_a_terminal_that_lacks_characters_shows_them_otherwise(tmp_path, encoding):
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    name = "\udcff☃ü"
    for words, code in ((["settings"], 0), (["run", "--data", name], 2), (["☃" + name], 2)):
        done = subprocess.run(
            [*COMMAND, *words], env=env, cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr and done.stdout + done.stderr


@pytest.mark.parametrize(("words", "code"), [(["settings"], 141), (["run", "--help"], 0)])
def test_an_output_that_nobody_reads_ends_it_quietly(words, code):
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.wait(60) in (code, 141)
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_without_an_output_it_works(tmp_path, closed):
    command = f"{sys.executable} -m carcls kernel {closed}"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0
    assert (tmp_path / "kernel.py").read_text().startswith('"""carcls')


def test_a_full_disk_is_named_with_what_is_free_on_it(tmp_path, capsys):
    def work() -> None:
        with disk.replacing(tmp_path / "member1.weights.h5") as part:
            part.write_bytes(b"some")
            Path("/dev/full").write_bytes(b"more")

    (tmp_path / "member1.weights.h5").write_bytes(b"old")
    assert errors.end_well(work) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: " in line and " MB free" in line
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sample, "draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["sample", "somewhere"])


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> Path:
    """Where the sample would be, which nobody draws here."""
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path))
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))
    monkeypatch.setattr(sample, "draw", lambda folder: folder)
    return tmp_path / "sample"


def test_without_data_it_is_the_sample_with_its_preset(drawn):
    stages = config.parse({"preset": "sample"}).stages
    cfg = settings.from_command([], "", "")
    assert (cfg.data, cfg.stages) == (str(drawn), stages)
    cfg = settings.from_command(["preset=quick"], "", "there")
    assert (cfg.data, cfg.out) == (str(drawn), "there")
    assert cfg.stages == config.parse({"preset": "quick"}).stages
    assert settings.from_command([], "mine", "").stages == config.Config().stages
    assert settings.from_command(["data=mine"], "mine", "").data == "mine"


@pytest.mark.parametrize(
    ("words", "data", "out"), [(["data=a"], "b", ""), (["data=a", "out=c"], "", "d")]
)
def test_a_folder_given_in_two_ways_is_refused(words, data, out):
    with pytest.raises(ConfigError, match="expected one of them"):
        settings.from_command(words, data, out)


def test_help_names_every_setting_and_preset():
    text = settings.help_text()
    for name in [*config.Config.model_fields, *config.PRESETS]:
        assert re.search(rf"^  {name}\b", text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 110


def test_the_readmes_table_is_fresh_and_a_stale_one_is_seen(tmp_path):
    settings.check_readme(REPOSITORY / "README.md")
    text = (REPOSITORY / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace("`folds=1`", "`folds=2`"))
    with pytest.raises(InputError, match="make readme"):
        settings.check_readme(tmp_path / "README.md")
    settings.write_readme(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == text
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(InputError, match="expected the lines"):
        settings.check_readme(tmp_path / "README.md")


def test_what_the_readme_and_the_code_point_to_is_there():
    text = (REPOSITORY / "README.md").read_text()
    for path in re.findall(r"carcls/[\w/.]+\.(?:png|py|md)", text):
        assert (REPOSITORY / path).is_file(), path
    diary = (REPOSITORY / "carcls" / "desk" / "MEASUREMENTS.md").read_text().lower()
    titles = re.findall(r"^### (.+)$", diary, re.MULTILINE)
    for path in (REPOSITORY / "carcls").rglob("*.py"):
        code = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
        for named in re.findall(r"MEASUREMENTS: ([^)]+)\)", code):
            for title in named.lower().split("; "):
                assert title in titles, f"{path.name}: {title}"


def test_backbones_says_of_every_network_what_is_known(capsys):
    """Figures of a row are there for all networks and no other, and stand in their columns."""
    assert set(backbones.FIGURES) == set(registry.REGISTRY)
    assert cli.main(["backbones"]) == 0
    heads, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert set(registry.REGISTRY) <= set(rows)
    at = {head: heads.index(head) for head in ("parameters", "top-1", "whose", "licence")}
    for name, (size, top1, _, whose) in backbones.FIGURES.items():
        row = rows[name]
        assert row[at["parameters"] :].startswith(f"{size} M")
        assert row[at["top-1"] :][:5].strip() == (f"{top1}" if top1 else "")
        assert row[at["whose"] :].startswith(whose) and bool(whose) == bool(top1)
    assert rows["hgnetv2_b5"].split() == [
        *("hgnetv2_b5", "keras_hub", "33.4", "M", "85.2", "288", "timm", "any", "Apache-2.0"),
        "keras/hgnetv2/keras/hgnetv2_b5_ssld_stage2_ft_in1k/1",
    ]


def test_a_public_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("carcls ")
    scripts = (REPOSITORY / "pyproject.toml").read_text()
    assert 'carcls = "carcls.desk.cli:main"' in scripts


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a=1  b=x,y", ["a=1", "b=x,y"]),
        (
            "monitor_url=https://h/x?a=1&b=(2);c#d e=3",
            ["monitor_url=https://h/x?a=1&b=(2);c#d", "e=3"],
        ),
        ("data='/my folder' a=1", ["data=/my folder", "a=1"]),
        ('data="/my folder"', ["data=/my folder"]),
        (r"data=/my\ folder", ["data=/my folder"]),
        ("", []),
    ],
)
def test_make_hands_over_the_words_of_set_as_they_are(tmp_path, given, words):
    done = made(tmp_path, "push", f"SET={given}", "ACCELERATOR=cpu")
    assert done == ["push", "--accelerator", "cpu", *words]


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_shows_a_page_where_it_is_asked_to(tmp_path):
    assert made(tmp_path, "run", "SET=a=1", "OUT=o", "PAGE=1") == [
        *("run", "--out", "o", "--page", "a=1")
    ]
    assert made(tmp_path, "watch", "SUBMIT=1", "PAGE=1") == ["watch", "--submit", "--page"]
    for word in ("run", "watch"):
        assert made(tmp_path, word) == [word]
    (tmp_path / ".venv" / "monitor").unlink()
    assert made(tmp_path, "watch") == ["watch"]
    assert "pip" in " ".join(made(tmp_path, "-n", "watch", "PAGE=1"))


def made(folder: Path, *words: str) -> list[str]:
    """The lines that make prints; the words of carcls, one a line, where it is called."""
    shutil.copy(REPOSITORY / "Makefile", folder)
    program = folder / ".venv" / "bin" / "carcls"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    if not (folder / "pyproject.toml").exists():
        for name in ("pyproject.toml", ".venv/ready", ".venv/push", ".venv/monitor"):
            (folder / name).touch()
    call = ["make", "-s", "-C", str(folder), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
