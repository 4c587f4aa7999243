"""Pushing, watching and uploading: the real kaggle command against a stand-in for Kaggle."""

import ast
import hashlib
import io
import json
import os
import re
import shutil
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from recorder import Raw, Recorder, blob, refusal, stream

from carcls import config
from carcls.data import attached
from carcls.desk import bundle, cli, kaggle, metadata, offline, push, watch
from carcls.desk.live.watched import Watched
from carcls.errors import InputError
from carcls.nets import registry
from carcls.train.events import MARK, log_line

REPOSITORY = Path(__file__).parents[1]
ID = "alice/carcls-car-classification"
PUSHED = {"ref": f"/{ID}", "url": f"https://www.kaggle.com/code/{ID}", "versionNumber": 3}
LOG = f"kernels/logs/stream/{ID}"
# Versions of a kernel, --no-run, and a submission's score came with it.
KNOWS_VERSIONS = tuple(map(int, version("kaggle").split("."))) >= (2, 2, 5)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in, and a folder like the repository's to work in."""
    recorder = Recorder()
    for name in [n for n in os.environ if n.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "user"
    (home / ".kaggle").mkdir(parents=True)
    for name, value in recorder.environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))
    shutil.copy(REPOSITORY / metadata.FILE, tmp_path)
    monkeypatch.chdir(tmp_path)
    yield recorder
    recorder.close()


MODEL = "keras/hgnetv2/keras/hgnetv2_b5_ssld_stage2_ft_in1k/1"
GATED = "keras/dinov3/keras/dinov3_vit_small_lvd1689m/1"


def with_models(*models: str) -> dict:
    """A kernel as Kaggle has it, with these models attached."""
    return {
        "metadata": {"ref": ID, "id": 1, "title": "x", "modelDataSources": list(models)},
        "blob": {"source": "", "language": "python", "kernelType": "script", "slug": "x"},
    }


def test_a_push_without_its_model_fails_although_the_command_says_nothing_of_it(server, capsys):
    server.answers = {
        "SaveKernel": PUSHED | {"invalidModelSources": [MODEL]},
        "GetKernel": with_models(),
    }
    assert cli.main(["push", "--owner", "alice"]) == 2
    said = capsys.readouterr()
    assert (
        f"without all of its models, so it will fail. Attached: none; expected {MODEL}" in said.err
    )
    assert "next" not in said.out
    server.answers["GetKernel"] = refusal(500, "later")
    assert cli.main(["push", "--owner", "alice"]) == 0
    assert "warning: whether the models are attached is not known: " in capsys.readouterr().out


@pytest.mark.parametrize(("attached", "is_said"), [([MODEL], True), ([GATED], False)])
def test_a_model_whose_licence_is_not_accepted_says_where_to(monkeypatch, attached, is_said):
    def pull(*words: str) -> SimpleNamespace:
        Path(words[4], metadata.FILE).write_text(json.dumps({"model_sources": attached}))
        return SimpleNamespace(words="")

    monkeypatch.setattr(kaggle, "call", pull)
    with pytest.raises(InputError, match=f"expected {MODEL}, {GATED}") as error:
        push._expect_models(ID, [MODEL, GATED])
    assert ("licence on https://www.kaggle.com/models/keras/dinov3," in str(error.value)) == is_said


def settings_of(text: str) -> dict:
    """SETTINGS of a kernel.py, as Python reads it."""
    (found,) = (
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SETTINGS"
    )
    return ast.literal_eval(found)


def test_a_push_sends_the_kernel_with_its_settings_and_inputs(server, capsys):
    server.answers = {
        "SaveKernel": PUSHED,
        "GetDatasetStatus": {"status": "READY"},
        "GetKernel": with_models(MODEL),
    }
    members = "seed=1+seed=2/backbone=keras_xception"
    words = ["views=4", f"members={members}", "pseudo=2", "stages=64x96x1"]
    left = (REPOSITORY / metadata.FILE).read_text()
    assert cli.main(["push", *words, "--kernel", "bob/an-earlier-run"]) == 0
    said = capsys.readouterr().out
    assert "Kernel version 3 successfully pushed" in said
    assert Path(metadata.FILE).read_text() == left
    (sent,) = server.sent("SaveKernel")
    assert sent["slug"] == ID
    assert sent["newTitle"] == "carcls car classification"
    assert sent["text"] == (push.FOLDER / "kernel.py").read_text()
    assert sent["text"] == bundle.text({**bundle.settings(words), "accelerator": "t4"})
    assert settings_of(sent["text"]) == {
        "preset": "kaggle",
        "stages": "64x96x1",
        "views": "4",
        "pseudo": 2,
        "members": members,
        "accelerator": "t4",  # so that it stops where there is none
    }
    expected = {
        "language": "python",
        "kernelType": "script",
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": False,
        "machineShape": "NvidiaTeslaT4",
        "competitionDataSources": ["sf-dl-car-classification"],
        "modelDataSources": [MODEL],
        "datasetDataSources": ["alice/carcls-keras-xception"],  # no Kaggle model has those weights
        "kernelDataSources": ["bob/an-earlier-run"],
    }
    assert {key: sent[key] for key in expected} == expected
    assert "warning" not in said


def test_a_preset_of_several_networks_attaches_the_models_of_all(server):
    made = push.build(push.Request(["preset=kaggle_best"], owner="bob"))
    cfg = config.parse({"preset": "kaggle_best"})
    names = [member.backbone for member in cfg.member_cfgs()]
    assert len(set(names)) == 3 and cfg.folds > 1 and "mixup" in str(cfg.mix)
    assert made["model_sources"] == [registry.find(name).model for name in names]


def test_a_tpu_another_network_and_a_title(server):
    pinned = {"docker_image": "gcr.io/some/image", "docker_image_pinning_type": "original"}
    data = json.loads(Path(metadata.FILE).read_text()) | pinned
    Path(metadata.FILE).write_text(json.dumps(data))
    (push.FOLDER / "left").mkdir(parents=True)
    made = push.build(push.Request(["backbone=resnet50_v2"], "tpu", "My TPU: Cars!", owner="bob"))
    assert (made["id"], made["title"]) == ("bob/my-tpu-cars", "My TPU: Cars!")
    assert (made["machine_shape"], made["enable_gpu"], made["enable_tpu"]) == (
        "TpuV5E8",
        False,
        True,
    )
    assert not set(pinned) & set(made)  # with one of them it would run on a CPU
    kernel = (push.FOLDER / "kernel.py").read_text()
    assert settings_of(kernel)["accelerator"] == "tpu"
    assert made["model_sources"] == ["keras/resnetv2/keras/resnet50_v2_imagenet/2"]
    assert sorted(path.name for path in push.FOLDER.iterdir()) == [
        "kernel-metadata.json",
        "kernel.py",
    ]
    assert "keras/resnetv2" in kernel.split("SETTINGS = ")[0]
    assert server.seen == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"error": 'The requested title "x" is already in use by a notebook.'},
            ["already in use", 'TITLE="my cars"'],
        ),
        (refusal(409, "Conflict"), ["Conflict", 'TITLE="my cars"']),
        (
            PUSHED | {"invalidCompetitionSources": ["sf-dl-car-classification"]},
            ["not valid competition sources"],
        ),
        (Raw(b"Unauthorized", 401, "text/plain"), ["expired", "auth login"]),
    ],
)
def test_a_refused_push_fails_with_kaggles_words(server, answer, words, capsys):
    server.answers = {"SaveKernel": answer}
    assert cli.main(["push", "--owner", "alice"]) == 2
    said = capsys.readouterr()
    assert all(word in said.err for word in words), said.err
    assert "next" not in said.out


def test_a_title_of_fifty_characters_is_taken(server):
    title = "c" * 49 + " d"
    assert len(push.build(push.Request(title=title[1:], owner="alice"))["title"]) == 50


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"url": PUSHED["url"]},
        {"versionNumber": 3},
        {"versionNumber": 3, "url": "https://proxy.example/login"},
        Raw(b"[]"),
        Raw(b""),
        Raw(b"", kind="text/html"),
        Raw(b"<html>Please log in to the hotel's network</html>", kind="text/html"),
        Raw(b"<html>Bad gateway</html>", 502, "text/html"),
        refusal(500, "later"),
        "{}",
    ],
)
def test_a_push_without_kaggles_own_answer_may_have_been_done(server, answer, capsys):
    server.answers = {"SaveKernel": answer, "GetKernel": with_models(MODEL)}
    assert cli.main(["push", "--owner", "alice"]) == 2
    said = capsys.readouterr()
    assert f"look at https://www.kaggle.com/code/{ID} before you repeat it" in said.err
    assert "Traceback" not in said.err and said.err.count("\n") == 1
    assert "next" not in said.out


def test_a_push_that_did_not_reach_kaggle_was_not_done(server, monkeypatch, capsys):
    monkeypatch.setenv("HTTP_PROXY", "http://me:s3cret@127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://me:s3cret@127.0.0.1:1")
    assert cli.main(["push", "--owner", "alice"]) == 2
    said = capsys.readouterr().err
    assert "Kaggle was not reached" in said and "may have been done" not in said
    assert "s3cret" not in said


@pytest.mark.parametrize("name", sorted(config.SECRETS))
def test_an_address_to_post_to_is_in_the_private_kernel_alone(server, capsys, name):
    url = "https://me:s3cret@host/hooks/s3cret?token=s3cret&b=1"
    words = ["push", "--owner", "alice", "--no-push", f"{name}={url}"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err
    assert "whoever may read this private kernel" in said.out and "host/…" in said.out
    assert settings_of((push.FOLDER / "kernel.py").read_text())[name] == url
    assert json.loads((push.FOLDER / metadata.FILE).read_text())["enable_internet"] is True
    public = json.loads(Path(metadata.FILE).read_text()) | {"is_private": False}
    Path(metadata.FILE).write_text(json.dumps(public))
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert f"{name}=https://host/… in a kernel that is not private" in said.err
    assert "s3cret" not in said.err


def test_a_kernel_without_accelerator(server, capsys):
    server.answers = {"SaveKernel": PUSHED, "GetKernel": with_models(MODEL)}
    assert cli.main(["push", "--owner", "alice", "--accelerator", "cpu"]) == 0
    (sent,) = server.sent("SaveKernel")
    assert (sent["enableGpu"], sent["enableTpu"], "machineShape" in sent) == (False, False, False)
    made = json.loads((push.FOLDER / metadata.FILE).read_text())
    assert "machine_shape" not in made
    said = capsys.readouterr().out
    assert "accelerator cpu," in said and "many times longer" in said
    assert settings_of(sent["text"])["accelerator"] == "cpu"
    Path(metadata.FILE).write_text(json.dumps(made))  # a template of a CPU stays one
    assert push.accelerator(push.build(push.Request(owner="alice"))) == "cpu"
    assert push.build(push.Request(accelerator="t4", owner="alice"))["enable_gpu"] is True


def test_a_kernel_may_run_on_what_there_is(server):
    push.build(push.Request(["accelerator=any"], "tpu", owner="alice"))
    kernel = (push.FOLDER / "kernel.py").read_text()
    assert settings_of(kernel)["accelerator"] == "any"


def test_a_version_is_watched_that_was_pushed_and_not_a_later_one(server, capfd):
    server.answers = {"SaveKernel": PUSHED, "GetKernel": with_models(MODEL)}
    assert cli.main(["push", "--owner", "alice"]) == 0
    assert watch.last_pushed() == f"{ID}/3"
    server.answers |= {"GetKernelSessionStatus": {"status": "COMPLETE"}, LOG: blob("epoch 1\n")}
    leave(server, finished())
    assert cli.main(["watch", "--every", "0.01"]) == 0
    assert "validation 0.9000" in capfd.readouterr().out
    assert (watch.OUTPUT / "carcls-car-classification" / "submission.csv").is_file()
    if KNOWS_VERSIONS:  # the command before takes the latest one
        asked = [*server.sent("GetKernelSessionStatus"), *server.sent("ListKernelSessionOutput")]
        assert {request["versionLabel"] for request in asked} == {"v3"}
        assert any("stream" in path and "versionLabel=v3" in path for path in server.asked)
    server.answers["GetKernelSessionStatus"] = {"status": "ERROR"}
    assert cli.main(["watch", f"{ID}/2", "--every", "0.01"]) == 2
    said = capfd.readouterr().err
    assert f"kernel {ID}/2 ended as ERROR" in said and f"EARLIER={ID}/" not in said
    push.build(push.Request(owner="alice"))  # whether it is pushed, nobody knows
    assert watch.last_pushed() == ID


@pytest.mark.skipif(not KNOWS_VERSIONS, reason="the kaggle command installed has no --no-run")
def test_a_version_is_saved_without_running(server, capsys):
    server.answers = {"SaveKernel": PUSHED, "GetKernel": with_models(MODEL)}
    assert cli.main(["push", "--owner", "alice", "--no-run"]) == 0
    (sent,) = server.sent("SaveKernel")
    assert sent["kernelExecutionType"] == "QUICK_SAVE"
    said = capsys.readouterr().out
    assert "version 3 successfully saved" in said and "make watch" not in said
    assert watch.last_pushed() == ID  # no version of its own runs


def test_a_command_that_knows_no_such_option_is_no_doubtful_answer(monkeypatch):
    said = kaggle.Reply("kaggle: error: unrecognized arguments: --no-run", 2)
    with pytest.raises(InputError, match="Kaggle refused.*--no-run"):
        raise kaggle.refused("push of x", said, look="https://www.kaggle.com")


def test_a_push_says_that_an_output_without_a_whole_epoch_is_not_gone_on_from(server, capsys):
    folder = push.OUTPUT / "earlier-run"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    words = ["push", "--owner", "alice", "--no-push", "--kernel", "alice/earlier-run"]
    assert cli.main(words) == 0
    assert "starts anew" in capsys.readouterr().out
    (folder / "member1" / "state").mkdir(parents=True)
    (folder / "member1" / "state" / "note.json").write_text("{}")
    assert cli.main(words) == 0
    assert "starts anew" not in capsys.readouterr().out


def test_what_the_command_said_is_quoted_without_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fedcba9876543210")
    monkeypatch.setenv("KAGGLE_USERNAME", "alice-of-cars")
    program = tmp_path / "kaggle"
    program.write_text(
        "#!/bin/sh\n"
        'echo "alice-of-cars: $KAGGLE_KEY $KAGGLE_API_TOKEN https://u:s3cretpw@proxy:80/a/b"\n'
        'echo \'Authorization: Bearer s3cretpw01 {"token": "s3cretpw02"} api_key=s3cretpw03\'\n'
        "echo 'GET https://files.example/f.zip?sig=s3cretpw for url: /v1/x?token=s3cretpw (403)'\n"
        "exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(kaggle, "command", lambda: str(program))
    said = kaggle.call("kernels", "push").words
    assert "alice-of-cars" in said and "proxy:80/a/b" in said and "files.example/f.zip" in said
    assert not [secret for secret in ("s3cret", "0123456789", "fedcba") if secret in said], said
    reply = kaggle.follow(["kernels", "logs"], lambda line: None, 5)
    assert reply is not None and reply.code == 1


def test_a_server_that_never_answers(server):
    server.answers = {"SaveKernel": Raw(b"{}", seconds=30)}
    data = push.build(push.Request(owner="alice"))
    with pytest.raises(InputError, match="kernels push: no answer in 1 s; whether it was done"):
        push.push(data, seconds=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["veiws=4"], "unknown setting veiws"),
        (["views=many"], "views='many'"),
        (["views"], "not key=value"),
        (["data=photos"], "data=photos: a kernel sees only what begins with /kaggle/"),
        (["earlier=out"], "earlier=out: a kernel sees only .*make push EARLIER=owner/slug"),
        (
            ["members=seed=1+weights=my.h5"],
            "weights=my.h5.*make dataset SET.*DATASET=you/carcls-hgnetv2-b5 weights=imagenet",
        ),
        (["out=run2"], "out=run2: what a kernel leaves is /kaggle/working"),
        (["--accelerator", "tpu", "backend=tensorflow"], "backend=tensorflow with ACCELERATOR=tpu"),
        (["--accelerator", "a100"], "ACCELERATOR=a100: expected one of t4, tpu, cpu"),
        (["--accelerator", "P100"], "ACCELERATOR=P100: retired.*T4 x2.*take ACCELERATOR=t4"),
        (["--accelerator", "v3-8"], "ACCELERATOR=v3-8: retired.*v5e-8.*take ACCELERATOR=tpu"),
        (["accelerator=tpu"], "accelerator=tpu: the kernel is to run on t4; expected t4 or any"),
        (["--accelerator", "cpu", "accelerator=t4"], "accelerator=t4: .* run on cpu"),
        (["--title", "cars"], "slug 'cars'; expected at least 5.*: 4 characters; .* 5 to 50"),
        (["--title", "c" * 51], "title='c{51}': 51 characters; Kaggle takes 5 to 50"),
        (["--title", "- - - - -"], "slug ''"),
        (["monitor_url=ftp://host/s3cret"], "monitor_url: found ftp://…; expected http"),
        (["--title", "Café cars"], "title='Café cars': how Kaggle spells it"),
        (["--owner", "a b"], "id='a b/carcls-car-classification': expected owner/slug"),
        (["--dataset", "weights"], "dataset_sources: 'weights'; expected owner/slug"),
        (["backbone=b0"], "backbone='b0': no such network"),
        (
            ["members=seed=1+backbone=dinov2_small"],
            "stages=192x256x6: backbone=dinov2_small .* 14 px; .* 182 or 196, width 252 or 266",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(server, words, message, capsys):
    assert cli.main(["push", "--owner", "alice", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert server.seen == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"title": "another title"},
            "title='another title' has the slug 'another-title', id has 'carcls-car-",
        ),
        ({"enable_internet": None}, "enable_internet=None: expected true or false"),
        ({"enable_tpu": True}, "'enable_gpu': True, 'enable_tpu': True}: expected"),
        ({"machine_shape": "T4"}, "'machine_shape': 'T4'.*expected .*NvidiaTeslaT4"),
        ({"machine_shape": "NvidiaTeslaP100"}, "P100'.*retired.*T4 x2 in silence.*=t4"),
        ({"machine_shape": "TpuV38"}, "TpuV38'.*retired.*=tpu"),
        ({"machine_shape": "Tpu1VmV38"}, "Tpu1VmV38'.*retired.*=tpu"),
        ({"machine_shape": "TpuV232"}, "TpuV232'.*retired.*CPU in silence.*=tpu"),
        ({"datasets": []}, "datasets: unknown"),
        (
            {"model_sources": ["keras/efficientnetv2"]},
            "expected owner/model/framework/variation/version",
        ),
        ({"kernel_sources": "bob/x"}, "kernel_sources: 'bob/x'; its slug has fewer than 5"),
        ({"kernel_type": "notebook"}, "kernel_type='notebook': expected 'script'"),
    ],
)
def test_each_rule_of_the_metadata(server, change, message):
    Path(metadata.FILE).write_text(json.dumps(json.loads(Path(metadata.FILE).read_text()) | change))
    with pytest.raises(InputError, match=message):
        push.build(push.Request(owner="alice"))


def test_a_kernel_over_the_limit_and_a_repository_without_metadata(server, monkeypatch):
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=r"has \d+ bytes|would have \d+ bytes"),
    ):
        patch.setattr(bundle, "LIMIT", 1000)
        push.build(push.Request(owner="alice"))
    Path(metadata.FILE).unlink()
    with pytest.raises(
        InputError, match="kernel-metadata.json: not a JSON file.*run this in the repository"
    ):
        push.build(push.Request(owner="alice"))


def test_a_dataset_that_is_not_there_is_missed_before_the_push(server):
    data = push.build(push.Request(["backbone=keras_xception"], owner="alice"))
    with pytest.raises(
        InputError, match="dataset alice/carcls-keras-xception is not there.*nothing was sent"
    ):
        push.push(data)
    assert not server.sent("SaveKernel")


def test_the_user_is_whom_the_command_acts_as(server, tmp_path, monkeypatch):
    server.answers = {"IntrospectToken": {"active": True, "username": "carol"}}
    with monkeypatch.context() as patch:
        patch.setenv("KAGGLE_API_TOKEN", "a-token")
        assert kaggle.username() == "carol"
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(InputError, match="no login here.*auth login"):
        kaggle.username()
    login = tmp_path / "user" / ".kaggle" / "kaggle.json"
    login.write_text(json.dumps({"username": "dora", "key": "a-secret"}))
    login.chmod(0o600)
    assert kaggle.username() == "dora"


def test_without_the_command(server, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match="kaggle: no such command; .*make .venv/push"):
        kaggle.username()


def finished(rows: int = 2, warnings: tuple = ()) -> dict[str, bytes]:
    """What a kernel leaves."""
    table = b"Id,Category\n" + b"1.jpg,0\n" * rows
    made = {
        "made_by": "two networks",
        "metric": "accuracy",
        "score": 0.9,
        "rows": rows,
        "warnings": warnings,
        "sha256": hashlib.sha256(table).hexdigest(),
    }
    result = {
        "validation_accuracy": 0.9,
        "validation_interval_95": [0.85, 0.95],
        "validation_photos": 100,
    }
    settings = {"competition": "sf-dl-car-classification"}
    return {
        "submission.csv": table,
        "submission.json": json.dumps(made).encode(),
        "result.json": json.dumps(result).encode(),
        "config.json": json.dumps(settings).encode(),
        "report.html": b"<html>",
    }


def leave(server, files: dict[str, bytes]) -> None:
    """Have the stand-in give these files as the kernel's output."""
    listed = [{"fileName": name, "url": f"http://localhost/files/{name}"} for name in files]
    server.answers["ListKernelSessionOutput"] = {"files": listed, "log": "[]"}
    server.answers |= {
        f"/files/{name}": Raw(content, kind="text/plain") for name, content in files.items()
    }


def test_watch_prints_the_log_once_downloads_and_submits(server, capfd):
    server.answers = {
        "GetKernelSessionStatus": [{"status": s} for s in ("QUEUED", "RUNNING", "COMPLETE")],
        LOG: [stream("epoch 1\n"), blob("epoch 1\n", "epoch 2\nvalidation 0.9\n")],
        "StartSubmissionUpload": {"token": "t", "createUrl": "http://localhost/upload"},
        "upload": {},
        "CreateSubmission": {"message": "Successfully submitted to Ford vs Ferrari", "ref": 5},
        "GetSubmission": [{"ref": 5}, {"ref": 5, "status": "COMPLETE", "publicScore": "0.97827"}],
    }
    leave(server, finished())
    old = watch.OUTPUT / "carcls-car-classification" / "of-an-earlier-run"
    old.parent.mkdir(parents=True)
    old.touch()
    assert cli.main(["watch", ID, "--every", "0.01", "--submit"]) == 0
    said = capfd.readouterr().out
    assert f"{ID}: queued\nepoch 1\nepoch 2\nvalidation 0.9\n\n== result" in said
    assert "validation 0.9000 accuracy, 95 % interval 0.8500–0.9500, 100 photos" in said
    assert f"report     {old.with_name('report.html')}" in said
    assert "Successfully submitted" in said
    board = "0.97827 on the public board" if KNOWS_VERSIONS else "score      not known"
    assert board in said
    assert not old.exists()
    (sent,) = server.sent("CreateSubmission")
    assert sent["competitionName"] == "sf-dl-car-classification"
    assert sent["submissionDescription"] == "carcls: two networks, validation 0.9000 accuracy"
    assert server.sent("upload") == [finished()["submission.csv"]]


def test_the_events_of_a_log_go_to_the_page_and_not_to_the_reader(server, capfd):
    """Cut by the stream, mixed with other output, and repeated as the log is read again."""
    events = [{"id": f"0123abcd.00ff.{n}", "kind": "phase", "at": 9.5, "name": "ü"} for n in (1, 2)]
    events.append({"id": "0123abcd.00ff.3", "kind": "end", "at": 10.5})
    one, two, three = map(log_line, events)
    log = [f"epoch 1{one[:4]}", one[4:30], "W0000 a warning\n", f"{one[30:]}\n", f"{two[:40]}"]
    torn = Raw(stream(*log).body.removesuffix(b"data: END_OF_LOG\n\n"), kind="text/event-stream")
    log += [f"{two[40:]}\nepoch 2\n{one}\n"]
    server.answers = {
        "GetKernelSessionStatus": [{"status": s} for s in ("RUNNING", "RUNNING", "COMPLETE")],
        LOG: [torn, stream(*log), blob(*log, f"{two}\n{three}\nlast\n")],
    }
    leave(server, finished())
    assert cli.main(["watch", ID, "--every", "0.01", "--page"]) == 0
    said = capfd.readouterr().out
    page, _, log_shown = said.partition("\n")
    assert page.startswith("page     http://127.0.0.1:")
    assert log_shown.startswith("epoch 1\nW0000 a warning\nepoch 2\nlast\n\n== result")
    assert f"carcls monitor {watch.OUTPUT / 'carcls-car-classification'}\n" in said
    kept = Path("monitor", "0123abcd", "progress.jsonl")
    found = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [{**event, "received": 0} for event in found] == [{**e, "received": 0} for e in events]
    assert found[0]["received"] > 1e9 and found[2]["received"] == 10.5  # as it came; afterwards
    assert MARK not in said


def told(monkeypatch, state: str, *logs: list[str] | None) -> None:
    """Kaggle says that the kernel is in this state, and has these logs in turn; None: no answer."""
    monkeypatch.setattr(kaggle, "call", lambda *_: kaggle.Reply(STATUS % state, 0))
    left = list(logs)

    def follow(words, each, silence):
        for line in (log := left.pop(0)) or ():
            each(line)
        return kaggle.Reply("503 Server Error", 1) if log is None else kaggle.Reply("", 0)

    monkeypatch.setattr(kaggle, "follow", follow)


def test_a_kernel_that_was_killed_is_not_shown_as_running(monkeypatch, tmp_path, capsys):
    line = log_line({"id": "0123abcd.00ff.1", "kind": "start", "at": 9.5})
    torn = f"{line[:-9]}"
    told(monkeypatch, 'ERROR"\nFailure message: "out of memory', *[["data", line, torn]] * 2)
    for _ in range(2):  # watched again, it has failed once
        words = watch.wait(ID, 0.01, watched=Watched(tmp_path))
        assert words.endswith(f"The end of its log:\n  data\n  {torn}")
        kept = (tmp_path / "0123abcd" / "progress.jsonl").read_text().splitlines()
        _, failed = map(json.loads, kept)
        assert (failed["kind"], failed["at"]) == ("failed", 9.5)
        assert "ERROR (out of memory)" in failed["error"]
    assert "did not come whole" not in capsys.readouterr().out


def test_a_log_that_is_not_whole_says_what_it_lacks(monkeypatch, tmp_path, capsys):
    ends = [log_line({"id": f"0123abcd.00ff.{n}", "kind": "end", "at": 9.5}) for n in (1, 4)]
    told(monkeypatch, "COMPLETE", ["epoch 1"], ends, None)
    for words in ("has no events", "2 events did not come whole"):
        assert watch.wait(ID, 0.01, watched=Watched(tmp_path)) == ""
        assert words in capsys.readouterr().out
    kept = (tmp_path / "0123abcd" / "progress.jsonl").read_text().splitlines()
    assert len(kept) == 2
    watch.wait(ID, 0.01, watched=Watched(tmp_path / "other"))  # there may be events, who knows
    said = capsys.readouterr().out
    assert "no log" in said and "no events" not in said and not (tmp_path / "other").exists()


SENT = "Submission ref: 5 Successfully submitted to cars"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["Status: PENDING", "Status: COMPLETE\nPublic Score:  0.9\nPrivate Score: "], "^0.9 on"),
        (["404 Client Error", "Status: COMPLETE\nPublic Score: \nDate: 1"], "^none published"),
        ([InputError("no login"), "Status: COMPLETE\nPublic Score: 0"], "^0 on the public"),
        (["Status: PENDING"] * 99, r"^not there after .* \(PENDING\); .*cars/submissions"),
        (["503 Server Error"] * 99, r"^not there after .* \(503 Server Error\)"),
        ([KeyboardInterrupt], "^not waited for; .*cars/submissions"),
    ],
)
def test_a_submission_is_asked_about_until_it_has_a_score(monkeypatch, answers, said):
    now = iter(range(1000))
    monkeypatch.setattr(watch.time, "monotonic", lambda: 10.0 * next(now))
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: None)

    def call(*words):
        assert words == ("competitions", "submission", "5")
        answer = answers.pop(0)
        if isinstance(answer, str):
            return kaggle.Reply(answer, 0)
        raise answer

    monkeypatch.setattr(kaggle, "call", call)
    assert re.search(said, watch.score(SENT, "cars", 10.0))


def test_a_submission_without_score_says_why(monkeypatch):
    reply = kaggle.Reply("Status: ERROR\nError: ids are missing", 0)
    monkeypatch.setattr(kaggle, "call", lambda *_: reply)
    with pytest.raises(
        InputError, match=r"submission 5: .*\(ids are missing\); .*cars/submissions"
    ):
        watch.score(SENT, "cars", 10.0)
    assert "not known" in watch.score("Successfully submitted to cars", "cars", 10.0)


def test_a_kernel_that_failed_shows_the_end_of_its_log(server, capfd):
    Path(push.FOLDER).mkdir(parents=True)
    (push.FOLDER / metadata.FILE).write_text(json.dumps({"id": ID}))
    server.answers = {
        "GetKernelSessionStatus": {"status": "ERROR", "failureMessage": "exit code 1"},
        LOG: blob("epoch 1\n", "carcls: the loss is no longer a number\n"),
    }
    assert cli.main(["watch", "no-owner"]) == 2
    assert "kernel 'no-owner': expected owner/slug" in capfd.readouterr().err
    assert cli.main(["watch"]) == 2
    said = capfd.readouterr()
    assert f"kernel {ID} ended as ERROR (exit code 1)" in said.err
    assert "  epoch 1\n  carcls: the loss is no longer a number\nWhat it left" in said.err


def test_what_a_kernel_had_before_it_failed_is_fetched_and_not_submitted(server, capfd):
    server.answers = {
        "GetKernelSessionStatus": {"status": "CANCEL_ACKNOWLEDGED"},
        LOG: blob("epoch 1\n"),
    }
    early = finished() | {"member1/state/note.json": b"{}"}
    del early["result.json"], early["report.html"]
    leave(server, early)
    assert cli.main(["watch", ID, "--every", "0.01", "--submit"]) == 2
    said = capfd.readouterr()
    assert "validation 0.9000 accuracy of an early submission: the run has no result" in said.out
    assert f"was not submitted; make push EARLIER={ID}, with the same SET" in said.err
    fetched = watch.OUTPUT / "carcls-car-classification" / "submission.csv"
    assert fetched.read_bytes() == early["submission.csv"]
    assert not server.sent("CreateSubmission")


def test_an_output_from_before_the_first_epoch_is_said_to_be_of_no_use(server, capfd):
    server.answers = {"GetKernelSessionStatus": {"status": "ERROR"}, LOG: blob("data\n")}
    leave(server, {"config.json": b"{}", "progress.jsonl": b"{}"})
    assert cli.main(["watch", ID, "--every", "0.01"]) == 2
    said = capfd.readouterr().err
    assert "no whole epoch to go on from, so the next push starts anew" in said
    assert "EARLIER" not in said


STATUS = f'{ID} has status "KernelWorkerStatus.%s"'


@pytest.fixture
def pauses(monkeypatch):
    """How long was waited each time, without waiting; a log of nothing."""
    found = []
    monkeypatch.setattr(watch.time, "sleep", found.append)
    monkeypatch.setattr(kaggle, "follow", lambda *_, **__: kaggle.Reply("", 0))
    return found


@pytest.mark.parametrize(
    "trouble",
    [
        "503 Server Error: Service Unavailable for url: https://api.kaggle.com/v1/denied/404",
        "429 Client Error: Too Many Requests for url: https://api.kaggle.com/v1/x",
        "Too many requests, permission to ask again comes later",
        "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1 "
        "(Caused by NameResolutionError(\"Failed to resolve 'api.kaggle.com'\"))",
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection'))",
        "Expecting value: line 1 column 1 (char 0)",
        "later",
    ],
)
def test_watch_outlasts_an_outage_and_ends_on_a_lasting_one(monkeypatch, pauses, capsys, trouble):
    down = kaggle.Reply(trouble, 1)
    replies = [STATUS % "RUNNING", *[down] * 30, STATUS % "RUNNING", STATUS % "COMPLETE"]
    replies = [r if r is down else kaggle.Reply(r, 0) for r in replies]
    monkeypatch.setattr(kaggle, "call", lambda *_: replies.pop(0))
    assert watch.wait(ID) == ""
    assert sum(pauses) > 600 and max(pauses) <= 60 and pauses[1] < pauses[3]
    said = capsys.readouterr().out
    assert said.count("asking again") == said.count("answers again") == 1
    monkeypatch.setattr(kaggle, "call", lambda *_: down)
    with pytest.raises(InputError, match=f"state of kernel {ID}"):
        watch.wait(ID)


@pytest.mark.parametrize(
    "words",
    [
        "403 Client Error: Forbidden for url: https://api.kaggle.com/v1/x",
        "404 Client Error: Not Found for url: https://api.kaggle.com/v1/x",
        "Permission 'kernels.get' was denied",
        "Not found",
    ],
)
def test_watch_ends_at_once_on_a_kernel_that_is_not_there(monkeypatch, pauses, words):
    monkeypatch.setattr(kaggle, "call", lambda *_: kaggle.Reply(words, 1))
    with pytest.raises(InputError, match="Kaggle refused"):
        watch.wait(ID)
    assert pauses == []


def test_a_download_outlasts_an_outage_too(server, capfd):
    server.answers = {
        "GetKernelSessionStatus": [Raw(b"<html>", 503, "text/html"), {"status": "COMPLETE"}],
        LOG: blob("epoch 1\n"),
    }
    leave(server, finished())
    listed = server.answers["ListKernelSessionOutput"]
    server.answers["ListKernelSessionOutput"] = [refusal(503, "later"), listed]
    assert cli.main(["watch", ID, "--every", "0.01"]) == 0
    said = capfd.readouterr().out
    assert said.count("answers again") == 2 and "validation 0.9000" in said
    for every in ("-1", "nan", "inf"):
        assert cli.main(["watch", ID, "--every", every]) == 2
        assert "--every" in capfd.readouterr().err


def test_a_silent_log_is_left_and_a_long_one_followed(monkeypatch, tmp_path):
    program = tmp_path / "kaggle"
    program.write_text("#!/bin/sh\necho one; echo two; exec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(kaggle, "command", lambda: str(program))
    seen = []
    assert kaggle.follow(["kernels", "logs"], seen.append, silence=0.3) is None
    assert seen == ["one", "two"]


def test_a_submission_that_is_not_whole_is_not_sent(server, tmp_path):
    out = tmp_path / "output"
    out.mkdir()
    with pytest.raises(InputError, match="no submission.csv"):
        watch.summary(out)
    for name, content in finished().items():
        (out / name).write_bytes(content)
    (out / "submission.csv").write_bytes(b"<html>the download has expired</html>")
    with pytest.raises(InputError, match="submission.csv: sha256 .*, expected"):
        watch.summary(out)
    made = {
        "warnings": ["class 1 takes all: do not submit this"],
        "made_by": "x",
        "metric": "accuracy",
        "score": 0.1,
    }
    with pytest.raises(InputError, match="not sent: class 1"):
        watch.submit(out, made, "cars")
    with pytest.raises(InputError, match="submission to cars: Kaggle refused.*404|Not found"):
        watch.submit(out, made | {"warnings": []}, "cars")
    server.answers = {
        "StartSubmissionUpload": {"token": "t", "createUrl": "http://localhost/upload"},
        "upload": Raw(b"", 400),
    }
    with pytest.raises(InputError, match="Could not submit to competition"):  # and exit code 0
        watch.submit(out, made | {"warnings": []}, "cars")


@pytest.fixture
def preset(tmp_path) -> Path:
    """A preset folder in the cache; nothing reads its weights here."""
    folder = tmp_path / "cache" / "weights" / "efficientnet_lite_b0_imagenet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"class_name": "EfficientNetLiteBackbone"}))
    (folder / "model.weights.h5").write_bytes(b"numbers")
    return folder


LITE = "alice/carcls-efficientnet-lite-b0"


def test_a_dataset_is_created_private_with_its_folder_zipped(server, preset, capsys):
    server.answers = {
        "GetDatasetStatus": [refusal(403, "Permission 'datasets.get' was denied")] * 2
        + [{"status": "READY"}],
        "StartBlobUpload": {"token": "t", "createUrl": "http://localhost/upload"},
        "upload": {},
        "CreateDataset": {"status": "ok", "url": f"https://www.kaggle.com/datasets/{LITE}"},
    }
    assert cli.main(["dataset", "backbone=efficientnet_lite_b0", "--owner", "alice"]) == 0
    said = capsys.readouterr().out
    assert "wheels     none" in said
    assert f"{LITE}: created, ready to attach" in said
    (sent,) = server.sent("CreateDataset")
    assert (sent["ownerSlug"], sent["slug"], sent["isPrivate"]) == (
        "alice",
        "carcls-efficientnet-lite-b0",
        True,
    )
    assert len(sent["files"]) == 2
    archive = next(content for content in server.sent("upload") if content.startswith(b"PK"))
    with zipfile.ZipFile(io.BytesIO(archive)) as unpacked:
        assert unpacked.read("model.weights.h5") == b"numbers"
    names = {request["name"] for request in server.sent("StartBlobUpload")}
    assert names == {"efficientnet_lite_b0_imagenet.zip", "manifest.json"}


def test_a_new_version_that_kaggle_refuses_or_cannot_unpack(server, preset, monkeypatch):
    (made,) = offline.build(["backbone=efficientnet_lite_b0"], "alice")
    server.answers = {
        "GetDatasetStatus": [{"status": "READY"}, {"status": "FAILED"}],
        "StartBlobUpload": {"token": "t", "createUrl": "http://localhost/upload"},
        "upload": {},
        "CreateDatasetVersion": {"status": "ok", "url": "https://www.kaggle.com"},
    }
    with pytest.raises(InputError, match=f"dataset {LITE}: uploaded, but Kaggle says 'failed'"):
        offline.push(made)
    (sent,) = server.sent("CreateDatasetVersion")
    assert (sent["ownerSlug"], sent["datasetSlug"], len(sent["body"]["files"])) == (
        *LITE.split("/"),
        2,
    )
    replies = [
        kaggle.Reply("ready", 0),
        kaggle.Reply("Dataset version creation error: Your quota is exceeded", 0),
    ]
    monkeypatch.setattr(kaggle, "call", lambda *_, **__: replies.pop(0))
    with pytest.raises(InputError, match="Your quota is exceeded"):
        offline.push(made)
    words = [("ready", 0), ("x is being created", 0), ("503 Server Error", 1), ("ready", 0)]
    replies = [kaggle.Reply(*reply) for reply in words]  # what is uploaded outlasts a bad minute
    assert offline.push(made, every=0).endswith("ready to attach")
    replies = [kaggle.Reply("500 Server Error", 1)]  # not to be taken for: there is no such dataset
    with pytest.raises(InputError, match="state of dataset .*500"):
        offline.push(made)


def test_a_dataset_built_here_is_found_and_verified_there(server, preset, tmp_path, capsys):
    assert (
        cli.main(["dataset", "backbone=efficientnet_lite_b0", "--no-push", "--owner", "alice"]) == 0
    )
    assert server.seen == []
    folder = offline.FOLDER / "carcls-efficientnet-lite-b0"
    manifest = attached.read_manifest(folder)
    assert manifest["weights"] == {
        "efficientnet_lite_b0": "efficientnet_lite_b0_imagenet/model.weights.h5"
    }
    assert manifest["files"]["efficientnet_lite_b0_imagenet/model.weights.h5"] == {
        "sha256": hashlib.sha256(b"numbers").hexdigest(),
        "bytes": 7,
    }
    assert "preset" not in json.loads((folder / offline.METADATA).read_text())
    assert offline.check(folder) == []
    (again,) = offline.build(
        ["backbone=efficientnet_lite_b0", f"weights={folder}"], "alice"
    )  # replaces its own source
    assert (
        again.folder / "efficientnet_lite_b0_imagenet" / "model.weights.h5"
    ).read_bytes() == b"numbers"
    assert offline.build([], "alice") == []
    assert "attaches Kaggle's model keras/hgnetv2" in capsys.readouterr().out
    with pytest.raises(InputError, match="hgnetv2_b5_ssld"):
        offline.build([], "alice", every=True)


def test_a_pushed_kernel_may_start_from_another_preset():
    given = bundle.settings(["preset=quick", "views=1"])
    assert given == {"preset": "quick", "views": "1"}
    assert settings_of(bundle.text(given)) == given


def test_settings_replace_their_lines():
    given = {"preset": "quick", "views": "1", "augment": '/kaggle/a\\b"', "batch": 16}
    given["weight_decay"] = None
    plain, changed = bundle.text(), bundle.text(given)
    assert settings_of(plain) == {"preset": "kaggle"}
    assert settings_of(changed) == given
    head, other = (text.split("SETTINGS = ")[1].split("MODULES = ")[0] for text in (plain, changed))
    assert len(other.splitlines()) == len(head.splitlines()) + 2


def test_a_member_without_weights_does_not_take_another_ones(server):
    words = ["backbone=efficientnet_lite_b0", "members=seed=1+seed=2/weights=none"]
    made = [dataset.id for dataset in offline.build(words, "alice")]
    assert (
        made
        == ["alice/carcls-efficientnet-lite-b0"]
        == push.build(push.Request(words, owner="alice"))["dataset_sources"]
    )


@pytest.fixture
def boxes(tmp_path) -> Path:
    file = tmp_path / "mine" / "a.csv"
    file.parent.mkdir()
    file.write_text("id,left,top,right,bottom\n1.jpg,1,2,30,40\n")
    return file


def attached_by(*words: str, **others) -> list[str]:
    """The datasets that a push with these settings attaches."""
    return push.build(push.Request(words, owner="alice", **others))["dataset_sources"]


def test_boxes_are_uploaded_and_attached(server, boxes, capsys):
    assert cli.main(["dataset", f"boxes={boxes}", "--no-push", "--owner", "alice"]) == 0
    assert f"boxes      {boxes}" in capsys.readouterr().out
    (folder,) = offline.FOLDER.glob("carcls-boxes-????????")
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", offline.METADATA]
    assert offline.check(folder) == []
    assert (folder / "a.csv").read_bytes() == boxes.read_bytes()
    assert attached_by(f"boxes={boxes}") == [f"alice/{folder.name}"]
    kernel = (push.FOLDER / "kernel.py").read_text()
    assert 'a dataset with a.csv: make dataset SET="boxes=…"' in kernel.split("SETTINGS = ")[0]
    assert '"boxes": "a.csv"' in kernel and str(boxes.parent) not in kernel  # no folder of a desk
    theirs = "boxes=/kaggle/input/x/a.csv"
    assert attached_by(theirs) == [] and offline.build([theirs], "alice") == []
    lite = (f"boxes={boxes}", "backbone=efficientnet_lite_b0")
    named = [f"alice/{folder.name}", "bob/weights"]
    assert attached_by(*lite, datasets=["bob/weights"]) == named
    # Corrected boxes are another dataset, so that no kernel takes the old ones for them.
    boxes.write_text("id,left,top,right,bottom\n1.jpg,1,2,30,41\n")
    (other,) = attached_by(f"boxes={boxes}")
    assert other.startswith("alice/carcls-boxes-") and other != f"alice/{folder.name}"


def test_several_files_of_boxes(server, boxes, tmp_path):
    (tmp_path / "b.csv").write_bytes(boxes.read_bytes())
    both = f"boxes={boxes}, {tmp_path / 'b.csv'}"
    (made,) = offline.build([both], "alice")
    assert attached_by(both) == [made.id] and made.files == ("a.csv", "b.csv", offline.METADATA)
    assert '"boxes": "a.csv,b.csv"' in (push.FOLDER / "kernel.py").read_text()
    (tmp_path / "a.csv").write_bytes(boxes.read_bytes())
    (tmp_path / "empty.csv").write_text("id,left\n")
    for words, message in (
        ("boxes=gone.csv", "boxes=gone.csv: no such file"),
        (f"boxes={boxes},{tmp_path / 'empty.csv'}", "empty.csv: no rows"),
        (f"boxes={boxes},{tmp_path / 'a.csv'}", "two files of one name"),
        (f"boxes={boxes},/kaggle/input/x/a.csv", "two files of one name"),
    ):
        for build in (lambda words: offline.build([words], "alice"), attached_by):
            with pytest.raises(InputError, match=message):
                build(words)
