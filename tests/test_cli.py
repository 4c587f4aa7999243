"""The command line: what its arguments mean, how it ends, and what it says of settings."""

import re
from pathlib import Path

import pytest

from carcls import config, errors
from carcls.desk import cli, sample, settings
from carcls.errors import ConfigError, InputError, Stopped, TrainingDiverged

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
    ],
)
def test_every_way_to_end_has_its_code_and_one_line(monkeypatch, capsys, error, code, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(sample, "draw", fail)
    assert cli.main(["sample", "somewhere"]) == code == errors.exit_code(error)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


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


def test_a_public_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("carcls ")
    scripts = (REPOSITORY / "pyproject.toml").read_text()
    assert 'carcls = "carcls.desk.cli:main"' in scripts
