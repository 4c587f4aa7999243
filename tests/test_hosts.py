"""Several hosts that train as one: who is who, and what they share. Real ones: test_devices."""

import sys

import numpy as np
import pytest

from carcls import hosts
from carcls.errors import ConfigError
from carcls.machine import ONE_DEVICE

VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS")


def set_to(monkeypatch, *values):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)


def test_processes_are_counted_from_the_variables_of_jax(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert hosts.process_of() == (0, 1)
    set_to(monkeypatch, "1", "7", "")
    assert hosts.process_of() == (0, 1)
    for address in ("10.0.0.1:1234", "host-0.local:1", "[::1]:65535"):
        set_to(monkeypatch, "4", "3", address)
        assert hosts.process_of() == (3, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("four", "0", "a:1"), "JAX_NUM_PROCESSES='four': expected a whole number"),
        (("4", "", "a:1"), "JAX_PROCESS_ID='': expected a whole number"),
        (("4", "4", "a:1"), "JAX_PROCESS_ID=4: expected 0 to 3"),
        *(
            (("4", "3", bad), "JAX_COORDINATOR_ADDRESS=.*: expected host:port")
            for bad in ("", "a", ":1", "a:0", "a:99999", "a:b", "http://a:1", "a b:1", "::1:1")
        ),
    ],
)
def test_variables_that_do_not_go_together_are_named(values, message, monkeypatch):
    set_to(monkeypatch, *values)
    with pytest.raises(ConfigError, match=message):
        hosts.process_of()


def test_another_process_has_a_folder_of_its_own_and_prints_nothing(monkeypatch, tmp_path, capsys):
    leave = []
    monkeypatch.setattr(
        hosts.atexit, "register", lambda *call, **named: leave.append((call, named))
    )
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back after
    folder = hosts.own_folder(tmp_path / "scratch")
    print("not for people")
    sys.stdout.close()
    assert folder.is_dir() and folder.parent == tmp_path / "scratch"
    (((function, *arguments), named),) = leave
    function(*arguments, **named)
    assert not folder.exists() and capsys.readouterr().out == ""


def test_another_process_gets_the_files_of_the_first_but_scratch(monkeypatch, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    for name in ("config.json", "member1/state/1.npz", "scratch/photos"):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_text(name)
    other.mkdir()
    hosts.share_files(other, other / "scratch")  # alone: nothing to share
    sent = []
    set_to(monkeypatch, "2", "0", "a:1")
    monkeypatch.setattr(hosts, "_from_first", lambda value: sent.append(value) or value)
    hosts.share_files(first, first / "scratch")
    set_to(monkeypatch, "2", "1", "a:1")
    monkeypatch.setattr(hosts, "_from_first", lambda value: np.asarray(sent.pop(0)))
    hosts.share_files(other, other / "scratch")
    files = [path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()]
    assert sorted(files) == ["config.json", "member1/state/1.npz"]
    assert (other / "config.json").read_text() == "config.json"


def test_one_process_agrees_with_itself():
    assert ONE_DEVICE.agree(0.1) == 0.1
