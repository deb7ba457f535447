"""The command line as a user meets it: help, wrong usage, --json, and the small commands."""

import builtins
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mbrl
from mbrl import parsing, stages
from mbrl.__main__ import COMMANDS, config_file, main
from mbrl.data import minari
from mbrl.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and stderr of a command that has nothing to say on stdout."""
    status = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return status, err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert text.startswith(f"usage: mbrl {command} ")
    assert "--print_config" in text
    assert " at 0x" not in text
    assert "<class" not in text
    assert "torch.nn.Buffer" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_a_help_text(command: str) -> None:
    parser = parsing.parser(getattr(stages, COMMANDS[command][0]), command, COMMANDS[command][1], [])
    settings = [a for a in parser._actions if a.dest not in ("help", "config", "print_config")]
    assert settings
    assert [a.dest for a in settings if not a.help] == []


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"offline-mbrl {mbrl.__version__}\n")


def test_python_m_mbrl_is_the_same_program() -> None:
    command = [sys.executable, "-m", "mbrl", "--version"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"offline-mbrl {mbrl.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["learn"], ["--json"]])
def test_an_unknown_command_lists_those_that_exist(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("usage: mbrl [-h]")) == ("", True)


WRONG = [  # arguments of `mbrl run`, and what the message must name
    (["--sed", "3"], ["--sed"]),
    (["--rehearsal.update", "5"], ["--rehearsal.update"]),  # no abbreviations: a second setting may begin alike
    (["--rehearsal.updtes", "3"], ["--rehearsal.updtes"]),
    (["--seed", "x"], ["seed: ", "int", "x"]),
    (["--rehearsal.updates", "1.5"], ["rehearsal.updates: ", "int", "1.5"]),
    (["--rehearsal.precision", "16-true"], ["rehearsal.precision: ", "32-true", "16-true"]),
    (["--accelerator", "gpu"], ["accelerator: ", "cuda", "gpu"]),
    (["--learner", "policies.Nope"], ["learner: ", "policies", "Nope"]),
    (["--learner", "dynamics.ProbabilisticEnsemble"], ["learner: ", "dynamics.ProbabilisticEnsemble", "Learner"]),
    (["--learner", "dynamics.uncertainty.ensemble_std"], ["learner: ", "dynamics.uncertainty.ensemble_std", "Learner"]),
    (["--dynamics", "policies.SAC"], ["dynamics: ", "policies.SAC", "Dynamics"]),
    (["--learner.init_args.hiden", "3"], ["learner: ", "'hiden'"]),
    (["--learner.init_args.critics", "many"], ["learner: ", "critics", "many"]),
    (["--learner", "policies.COMBO", "--learner.init_args.soft_backup", "true"], ["learner: ", "'soft_backup'"]),
    (["--simulator.uncertainty", "dynamics.uncertainty.nope"], ["simulator.uncertainty: ", "nope"]),
    (["--simulator.uncertainty", "os.system"], ["simulator.uncertainty: ", "os.system", "not allowed"]),
    (["--config", "nowhere.yaml"], ["config: ", "nowhere.yaml"]),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_usage_names_the_setting(
    arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = failing(["run", "--data.id", "toy/log-v0", *arguments], capsys)
    assert status == 2
    assert all(part in err for part in named), err
    assert err.startswith("mbrl run: ")
    assert "mbrl run --help" in err
    assert len(err.splitlines()) <= 10


def test_a_required_setting_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing: --data ID" in failing(["run"], capsys)[1]
    assert "missing: FILE" in failing(["import", "--id", "toy/log-v0"], capsys)[1]
    assert "id" in failing(["import", "log.npz"], capsys)[1]
    assert "policy" in failing(["evaluate"], capsys)[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rehersal": {"updates": 3}}, "rehersal"),
        ({"rehearsal": {"updtes": 3}}, "updtes"),
        ({"rehearsal": {"updates": "many"}}, "rehearsal.updates"),
        ({"learner": {"class_path": "policies.SAC", "init_args": {"hiden": [8]}}}, "hiden"),
        ({"learner": {"class_path": "dynamics.ProbabilisticEnsemble"}}, "learner"),
        ({"learner": {"class_path": "nowhere.Learner"}}, "nowhere"),
        ({"dynamics": {"class_path": "members"}}, "members"),
    ],
)
def test_a_wrong_key_or_value_in_a_yaml_is_named(
    change: dict[str, object], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(config_file("debug.yaml").read_text()) | change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    status, err = failing(["run", "--config", "mine.yaml", "--data.id", "toy/log-v0"], capsys)
    assert status == 2
    assert named in err


def test_a_data_set_that_is_not_here_is_an_error_with_the_way_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, err = failing(["run", "--data.id", "mujoco/hopper/medium-v0"], capsys)
    assert status == 1
    assert "minari download mujoco/hopper/medium-v0" in err
    assert "--data.download true" in err


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["run", "--data.id", "toy/log-v0"], 1, "toy/log-v0"),
        (["run", "--sed", "3", "--data.id", "toy/log-v0"], 2, "--sed"),
        (["ui", "--port", "0"], 1, "port is 0"),
    ],
)
def test_an_error_with_json_is_one_object_on_stdout(
    arguments: list[str], status: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == status
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert set(answer) == {"error"}
    assert part in answer["error"]
    assert part in err


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (["ui", "--port", "0", "--json"], 1, "mbrl ui: port is 0"),
        (["ui", "--help"], 0, ""),
        (["demo", "--episodes", "1", "--data.id", "toy/short-v0"], 141, ""),  # tells of its log, first of all
        (["import", "none.csv", "--id", "toy/none-v0"], 1, "mbrl import: FileNotFoundError"),
    ],
)
def test_a_reader_may_leave(command: list[str], status: int, told: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mbrl", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == status
    assert said.startswith(told)
    assert "BrokenPipe" not in said


def test_standard_output_may_be_closed() -> None:
    command = f"{sys.executable} -m mbrl import none.csv --id toy/none-v0 >&-"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("mbrl import: FileNotFoundError")


@pytest.mark.parametrize(("error", "status"), [(BrokenPipeError, 141), (OSError(28, "No space left on device"), 1)])
def test_json_that_cannot_be_written_is_no_success(
    error: Any, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = []

    def printed(*words: Any, file: Any = None, **more: Any) -> None:
        if file is None:
            raise error
        file.write(f"{words[0]}\n")

    monkeypatch.setattr(stages, "ui", lambda port=1: {"port": port})
    monkeypatch.setattr(builtins, "print", printed)
    monkeypatch.setattr("mbrl.__main__._drop", lambda: dropped.append(1))
    assert main(["ui", "--json"]) == status
    assert dropped == [1]
    assert capsys.readouterr().err == (
        "" if status == 141 else "mbrl ui: standard output cannot be written: [Errno 28] No space left on device\n"
    )


def test_ctrl_c_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(port: int = 1) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "ui", pressed)
    assert failing(["ui"], capsys) == (130, "mbrl ui: stopped by Ctrl-C\n")


def test_torch_without_memory_is_told_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "ui", lambda port=1: torch.empty(2**50))
    status, err = failing(["ui"], capsys)
    assert status == 1
    assert "can't allocate memory: you tried to allocate 4503599627370496 bytes" in err
    assert err.endswith("Make smaller what grows with it: members, hidden, batch_size, rollout_starts, history\n")


def test_a_traceback_is_shown_on_demand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MBRL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="port is 0"):
        main(["ui", "--port", "0"])


def test_a_log_is_imported_by_its_name_and_either_spelling_of_an_option(
    tmp_path: Path, toy_log: Callable[..., dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    log = toy_log((4, 3, 5))
    np.savez(tmp_path / "good.npz", **log)
    assert main(["import", "good.npz", "--id", "toy/good-v0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["id"] == "toy/good-v0"
    assert len(minari.load("toy/good-v0")) == 12
    log["reward"][5] = np.nan  # in the second episode
    np.savez(tmp_path / "bad.npz", **log)
    status, err = failing(["import", "bad.npz", "--id", "toy/bad-v0"], capsys)
    assert status == 1
    assert "row 5" in err
    assert "--on-bad-rows drop-episode" in err
    for number, option in enumerate(("--on-bad-rows", "--on_bad_rows")):
        assert main(["import", "bad.npz", "--id", f"toy/bad-v{number}", option, "drop-episode"]) == 0
        assert minari.load(f"toy/bad-v{number}").episodes == 2
    status, err = failing(["import", "bad.npz", "--id", "toy/bad"], capsys) if capsys.readouterr() else (0, "")
    assert (status, "'toy/bad' is not a data set id" in err) == (1, True)
    status, err = failing(["import", "good.npz", "--id", "toy/good-v0"], capsys)
    assert (status, "minari delete toy/good-v0" in err) == (1, True)
    status, err = failing(["import", "nowhere.npz", "--id", "toy/more-v0"], capsys)
    assert (status, "nowhere.npz" in err) == (1, True)


def test_an_audit_writes_a_page_and_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("mine")
    status, err = failing(["audit", "toy/log-v0", "--html", str(log)], capsys)
    assert (status, log.read_text()) == (1, "mine")
    assert f"html is '{log}', expected the name of a page to write, such as audit.html" in err


@pytest.mark.parametrize(
    "command",
    [
        ["audit", "toy/log-v0"],
        ["run", "--data.id", "toy/log-v0"],
        ["evaluate", "--policy", "models:/toy-policy/1", "--env", "Pendulum-v1"],
        ["finetune", "toy", "--steps", "100", "--env", "Pendulum-v1"],
    ],
)
def test_a_negative_seed_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, err = failing([*command, "--seed", "-1"], capsys)
    assert (status, "seed is -1, expected 0 to 4294967295" in err) == (1, True)


def test_a_demo_is_continued_by_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[dict[str, object]] = []

    def remember(self: Pipeline, *plugins: object) -> dict[str, object]:
        kept.append(self.resolved)
        return {"episodes": len(minari.load(self.data.id).lengths)}

    monkeypatch.setattr(Pipeline, "run", remember)
    assert main(["demo", "--episodes", "2", "--data.id", "toy/demo-v0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"episodes": 2}
    status, err = failing(["demo", "--data.id", "toy/demo-v0"], capsys)
    assert status == 1
    assert "toy/demo-v0 is there already, with 2 episodes, and episodes is 100: run `minari delete" in err
    Path("config.yaml").write_text(yaml.safe_dump(kept[0]))  # what the run's folder gets
    assert main(["run", "--config", "config.yaml"]) == 0
    assert kept[1] == kept[0]
    assert (kept[0]["name"], kept[0]["env"]) == ("pendulum", "Pendulum-v1")


def test_the_ui_says_why_it_cannot_open(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(["ui", "--port", "70000"], capsys) == (1, "mbrl ui: port is 70000, expected 1 to 65535\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, err = failing(["ui", "--port", str(port)], capsys)
    assert status == 1
    assert f"port {port} of 127.0.0.1 cannot be listened on" in err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:1")
    status, err = failing(["ui"], capsys)
    assert status == 1
    assert "the runs are on the server http://***@127.0.0.1:1" in err


def test_the_ui_is_mlflows_on_loopback_without_job_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = tmp_path / "python"
    server.write_text(f'#!/bin/sh\necho "$@ $MLFLOW_SERVER_ENABLE_JOB_EXECUTION" > {tmp_path / "called"}\nexit 3\n')
    server.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(server))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["ui", "--port", str(port), "--json"]) == 1
    assert "ended with status 3" in json.loads(capsys.readouterr().out)["error"]
    uri = f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    called = f"-m mlflow ui --backend-store-uri {uri} --host 127.0.0.1 --port {port} --workers 1 false\n"
    assert (tmp_path / "called").read_text() == called
