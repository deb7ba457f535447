"""`mbrl sweep`: what dies is named and goes on, what is done is not repeated, all are children of one MLflow run."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pipeline_toys import ROOT, spoken

from mbrl import engines, parsing, stages
from mbrl.following import Going
from mbrl.inspection import EXPERIMENT
from mbrl.registry import store
from mbrl.training import room

# In the place of `mbrl run`: the member bc-1 is killed the first time.
STUB = """
import json, os, signal, sys
from pathlib import Path
path = Path(sys.argv[1])
folder = path.with_suffix("")
folder.mkdir(exist_ok=True)
ids = json.loads((path.parent.parent / "ids.json").read_text())
(folder / "run.json").write_text(json.dumps({"run_id": ids[path.stem]}))
with (folder / "times").open("a") as times:
    times.write(os.environ["OMP_NUM_THREADS"])
print("learning", file=sys.stderr)
if path.stem == "bc-1" and len((folder / "times").read_text()) == 1:
    os.kill(os.getpid(), signal.SIGKILL)
value = {"value": 3.0, "low": 1.0, "high": 5.0, "effective_n": 9, "diagnostics": {}}
row = {"true_return": None, "gain_in_spreads": value}
answer = {"verdict": "promote", "chosen": "candidate", "candidates": {"candidate": row}}
(folder / "result.json").write_text(json.dumps(answer))
"""


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A stub in the place of `mbrl run`, and an MLflow run for each member."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(engines, "RUN", (sys.executable, str(tmp_path / "stub.py")))
    store.connect()
    experiment = store.get_or_create(EXPERIMENT)
    names = ("bc-0", "bc-1", "mopo-0", "mopo-1")
    ids = {name: MlflowClient().create_run(experiment, run_name=name).info.run_id for name in names}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    return ids


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_member_that_is_killed_is_named_and_goes_on(
    engine: str, members: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # another cluster, which this machine knows of
    command = ["sweep", "--data", "toy/pendulum-v0", "--configs", "bc,mopo", "--seeds", "[0,1]", "--name", "both"]
    command += ["--engine", engine, "--threads", "3", "--folder", str(tmp_path / "out")]
    status, answer, told = spoken(command)
    assert status == 1
    assert set(answer["members"]) == set(members) - {"bc-1"}
    assert list(answer["failed"]) == ["bc-1"]
    log = tmp_path / "out" / "bc-1.log"
    assert answer["failed"]["bc-1"] == f"was killed by signal 9; its log {log} ends: learning"
    assert "1 of 4 runs failed; mend what they say, and the same command goes on with them:" in answer["error"]
    assert "| bc-1 | failed |  |" in told
    assert "| mopo-1 | promote | 3.00 [1.00, 5.00] |" in told
    status, again, _ = spoken(command)
    assert (status, again["failed"]) == (0, {})
    assert set(again["members"]) == set(members)
    assert again["run_id"] == answer["run_id"]
    client = MlflowClient()
    parents = {client.get_run(id).data.tags[MLFLOW_PARENT_RUN_ID] for id in members.values()}
    assert parents == {answer["run_id"]}
    assert client.get_run(answer["run_id"]).info.status == "FINISHED"
    assert (tmp_path / "out" / "bc-1" / "times").read_text() == "33"


@pytest.mark.usefixtures("members")
def test_what_failed_begins_anew_with_other_settings_and_what_is_done_is_refused(tmp_path: Path) -> None:
    own, out = tmp_path / "bc.yaml", tmp_path / "out"
    settings = yaml.safe_load((ROOT / "configs" / "bc.yaml").read_text())
    own.write_text(yaml.safe_dump(settings))
    command = ["sweep", "--data", "toy/pendulum-v0", "--configs", str(own), "--name", "both", "--folder", str(out)]
    assert spoken([*command, "--seeds", "[1]"])[0] == 1  # which the stub kills
    settings["fit"]["lr"] = 0.5
    own.write_text(yaml.safe_dump(settings))
    status, answer, told = spoken([*command, "--seeds", "[1]"])
    assert (status, list(answer["failed"])) == (1, ["bc-1"])  # begun anew, so killed anew
    assert "begins anew, as its settings changed: fit.lr was " in told
    assert f"is 0.5. What there was is {out / 'bc-1.old-1'}" in told
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"bc-1", "bc-1.old-1"}
    assert (out / "bc-1" / "times").read_text() == "1"
    assert spoken([*command, "--seeds", "[1]"])[0] == 0
    settings["fit"]["lr"] = 0.25
    own.write_text(yaml.safe_dump(settings))
    written = (out / "bc-1.yaml").read_text()
    status, answer, _ = spoken([*command, "--seeds", "[0,1]"])
    assert status == 1
    assert (
        f"{out / 'bc-1'} holds a finished run with other settings: fit.lr was 0.5, is 0.25. Delete" in answer["error"]
    )
    assert (out / "bc-1.yaml").read_text() == written
    assert not (out / "bc-0.yaml").exists()


def test_more_runs_than_fit_into_memory_are_not_begun(
    members: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free", lambda _: 3.5 * engines.RUN_BYTES)
    command = ["sweep", "--data", "toy/pendulum-v0", "--configs", "bc,mopo", "--seeds", "[0,1]", "--name", "both"]
    status, answer, _ = spoken([*command, "--folder", str(tmp_path / "out"), "--workers", "99"])
    assert status == 1
    assert answer["error"].startswith("workers is 4, and a run takes about 1 GiB of memory, of which cpu has 3.5 GiB")
    assert answer["error"].endswith("at most 3 fit")
    assert not (tmp_path / "out" / "sweep.json").exists()
    assert not any((tmp_path / "out" / name).exists() for name in members)


@pytest.mark.usefixtures("members")
def test_a_member_is_a_whole_configuration_of_a_run(tmp_path: Path) -> None:
    command = ["sweep", "--data", "toy/pendulum-v0", "--configs", "bc,mopo", "--seeds", "[1]", "--env", "Pendulum-v1"]
    spoken([*command, "--name", "both", "--folder", str(tmp_path / "out")])
    arguments = ["--config", str(tmp_path / "out" / "mopo-1.yaml")]
    parsed = parsing.parser(stages.run, "run", None, arguments).parse_args(arguments)
    assert (parsed.seed, parsed.env, parsed.name) == (1, "Pendulum-v1", "both-mopo-1")
    wanted = yaml.safe_load((ROOT / "configs" / "mopo.yaml").read_text())
    assert parsed.rehearsal.updates == wanted["rehearsal"]["updates"]
    assert parsed.folder == tmp_path / "out" / "mopo-1"
    assert parsed.fit.shared == tmp_path / "out" / "fits"


def test_who_stops_looking_begins_no_further_run(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; p = Path(sys.argv[1]).with_suffix(''); p.mkdir();"
    code += " (p / 'result.json').write_text('{}')"
    members = [engines.Member(str(k), tmp_path / f"{k}.yaml", (sys.executable, "-c", code)) for k in range(5)]
    ended = engines.in_processes(members, {}, 1)
    assert next(ended).answer == {}
    ended.close()  # as a Ctrl-C does
    assert sum(member.folder.exists() for member in members) < 5


FOLLOWS = """
import sys, time
from pathlib import Path
from mbrl.following import follow
path = Path(sys.argv[1])
try:
    follow()
    path.with_suffix(".begun").touch()
    time.sleep(240)
except KeyboardInterrupt:
    path.with_suffix(".saved").touch()
    sys.exit(130)
"""


def waited(path: Path) -> bool:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.exists()


def test_running_members_stop_with_the_command(tmp_path: Path) -> None:
    members = [engines.Member(k, tmp_path / f"{k}.yaml", (sys.executable, "-c", FOLLOWS)) for k in ("a", "b")]
    quick = engines.Member("c", tmp_path / "c.yaml", (sys.executable, "-c", "raise SystemExit(1)"))
    ended = engines.in_processes([quick, *members], {}, 3)
    assert next(ended).member is quick
    assert all(waited(tmp_path / f"{member.name}.begun") for member in members)
    ended.close()
    assert all((tmp_path / f"{member.name}.saved").exists() for member in members)


def test_members_stop_where_the_command_is_killed(tmp_path: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; from mbrl import engines; FOLLOWS = {FOLLOWS!r}\n"
        f"member = engines.Member('a', Path({str(tmp_path / 'a.yaml')!r}), (sys.executable, '-c', FOLLOWS))\n"
        "list(engines.in_processes([member], {}, 1))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as command:
        assert waited(tmp_path / "a.begun")
        command.kill()
    assert waited(tmp_path / "a.saved")


def test_a_member_waits_for_one_that_is_just_leaving_its_folder(tmp_path: Path) -> None:
    member = engines.Member("a", tmp_path / "a.yaml", (sys.executable, "-c", "print('free')"))
    member.folder.mkdir()
    lock = filelock.FileLock(member.folder / "run.lock", thread_local=False)
    lock.acquire()
    threading.Timer(1.0, lock.release).start()
    assert "free" in str(engines.run_member(member, {}).failure)
    assert not lock.is_locked


def test_a_folder_that_cannot_be_taken_is_a_matter_of_its_own_member(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.lock").mkdir()
    members = [engines.Member(k, tmp_path / f"{k}.yaml", (sys.executable, "-c", "print('said')")) for k in ("a", "b")]
    assert sorted(str(one.failure)[-4:] for one in engines.in_processes(members, {}, 2)) == ["said", "said"]


def test_who_waits_for_a_folder_stops_with_the_command(tmp_path: Path) -> None:
    member = engines.Member("a", tmp_path / "a.yaml", (sys.executable, "-c", "print('begun')"))
    member.folder.mkdir()
    going = Going()
    with filelock.FileLock(member.folder / "run.lock"):
        threading.Timer(0.2, going.stop).start()
        ended = engines.run_member(member, {}, going)
    assert (ended.failure, ended.stopped) == ("was not begun", True)
    assert not (tmp_path / "a.log").exists()


def test_a_run_that_leaves_no_result_has_failed(tmp_path: Path) -> None:
    member = engines.Member("a", tmp_path / "a.yaml", (sys.executable, "-c", "print('nothing')"))
    assert engines.run_member(member, {}).failure == f"ended with status 0; its log {tmp_path / 'a.log'} ends: nothing"


def test_a_run_that_fails_with_words_in_another_encoding_is_told_like_any_other(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.buffer.write(b'caf\\xe9'); sys.exit(1)"
    member = engines.Member("a", tmp_path / "a.yaml", (sys.executable, "-c", code))
    failure = engines.run_member(member, {}).failure
    assert failure == f"ended with status 1; its log {tmp_path / 'a.log'} ends: caf\ufffd"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--seeds", "[1,1]"], "seeds are [1, 1], expected different numbers"),
        (["--configs", "bc,nonesuch"], "configs has 'nonesuch', and there is no"),
        (["--configs", "bc,discrete_bcq"], "configs has discrete_bcq, which cannot learn from toy/pendulum-v0: "),
        (["--workers", "0"], "workers is 0, expected at least 1"),
        (["--ray_address", "10.0.0.1:6379"], "ray_address is '10.0.0.1:6379' and engine is processes: set engine to"),
        (
            ["--engine", "ray", "--ray_address", "nowhere"],
            "ray_address is 'nowhere', and nothing answers there (not H",
        ),
    ],
)
def test_a_sweep_says_what_it_cannot_do(arguments: list[str], part: str) -> None:
    status, answer, _ = spoken(["sweep", "--data", "toy/pendulum-v0", "--configs", "bc", *arguments])
    assert status == 1
    assert part in answer["error"]


def test_a_file_whose_name_no_model_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my cloning.yaml"
    path.write_text((ROOT / "configs" / "bc.yaml").read_text())
    command = ["sweep", "--data", "toy/pendulum-v0", "--configs", str(path), "--folder", str(tmp_path / "out")]
    status, answer, _ = spoken(command)
    assert (status, (tmp_path / "out").exists()) == (1, False)
    assert f"configs has {path}, whose name is to be part of a model's, toy-pendulum-my cloning-2: " in answer["error"]


def test_members_are_told_where_state_and_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a cluster stands in another folder, and may have another home."""
    heard: list[dict[str, str]] = []
    engine = engines.Engine(lambda members, told, workers: heard.append(dict(told)), 1, 3, False)  # type: ignore[arg-type,func-returns-value,return-value]
    monkeypatch.delenv("MBRL_HOME")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "sets")
    engine([])
    assert heard[0]["MBRL_HOME"] == str(tmp_path / ".mbrl")
    assert heard[0]["MINARI_DATASETS_PATH"] == str(tmp_path / "sets")
    assert heard[0]["OMP_NUM_THREADS"] == "3"
