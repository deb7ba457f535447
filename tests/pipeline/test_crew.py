"""Processes that make stages of a run: what they find out is remembered, and nobody is left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pipeline_toys import spoken
from test_candidates import SEVERAL, config

from mbrl import crew, engines
from mbrl.crew import Crew
from mbrl.runfolder import RunFolder
from mbrl.training import room


def of(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that run a script in the place of a stage."""
    monkeypatch.setattr(crew, "STAGE", (sys.executable, "-c", script))


def test_what_a_process_found_out_is_remembered_and_what_is_made_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of(
        "import os, sys, json; folder, stage = sys.argv[1:]; print(stage, os.environ['OMP_NUM_THREADS'])\n"
        "json.dump({f'{stage}_seconds': 2.5}, open(f'{folder}/{stage}.json', 'w'))",
        monkeypatch,
    )
    torch.set_num_threads(1)
    with RunFolder.open(tmp_path, "mark") as folder:
        folder.remember(judge_seconds=1.0)
        with Crew(folder, 2) as several:
            several.begin("simulator", "judge")
            for stage in "simulator", "judge", "policy":
                several.wait(stage)
        assert folder.facts == {"fingerprint": "mark", "judge_seconds": 1.0, "simulator_seconds": 2.5}
        (tmp_path / "policy.json").write_text(
            '{"policy_seconds": 3.0}'
        )  # by a run that was stopped before it read this
        with Crew(folder, 1) as nobody:
            nobody.begin("policy", "other")
            nobody.wait("other")
        assert folder.facts["policy_seconds"] == 3.0
    assert capsys.readouterr().out == "simulator 1\n"
    assert RunFolder(tmp_path, "mark").facts["simulator_seconds"] == 2.5


def test_auto_takes_as_many_as_there_are_cores_and_memory_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    for memory, count in (9.5, 3), (2.5, 2), (0.5, 1):
        monkeypatch.setattr(crew, "free", lambda _, memory=memory: memory * engines.RUN_BYTES)
        assert Crew.room() == count
    torch.set_num_threads(1)
    assert Crew.room() == 1
    monkeypatch.setattr(room, "free", lambda _: 2.5 * engines.RUN_BYTES)
    with RunFolder.open(tmp_path, "mark") as folder:
        with pytest.raises(ValueError, match=r"workers is 3, and a process takes about 1 GiB .* at most 2 fit"):
            Crew(folder, 3)
        Crew(folder, 2).wait("judge")


def test_a_process_that_fails_leaves_its_stage_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of("import sys; print('no memory', file=sys.stderr); sys.exit(3)", monkeypatch)
    with RunFolder.open(tmp_path, "mark") as folder, Crew(folder, 2) as several:
        several.begin("judge")
        several.wait("judge")
    told = capsys.readouterr().out
    assert told.startswith("no memory\n")
    assert "judge              its own process ended with status 3: the run goes on with it here" in told


def test_a_run_that_stops_stops_its_processes_and_lets_them_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(
        "import sys, time, pathlib\nfolder, stage = sys.argv[1:]\n"
        "try: pathlib.Path(folder, 'begun').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt: pathlib.Path(folder, 'saved').touch()",
        monkeypatch,
    )
    with RunFolder.open(tmp_path, "mark") as folder, Crew(folder, 2) as several:
        several.begin("judge", "policy", "later")
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
    assert (tmp_path / "saved").exists()


def test_a_run_that_stops_at_once_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of("import time; time.sleep(60)", monkeypatch)
    begun: list[subprocess.Popen[str]] = []
    launch = Crew._launch

    def launched(several: Crew, stage: str) -> subprocess.Popen[str] | None:
        process = launch(several, stage)
        begun.extend([process] if process else [])
        return process

    monkeypatch.setattr(Crew, "_launch", launched)
    for pause in 0.0, 0.002, 0.3:
        with RunFolder.open(tmp_path, "mark") as folder, Crew(folder, 2) as several:
            several.begin("judge")
            time.sleep(pause)
        assert not several._going
    assert begun
    assert -signal.SIGKILL not in {process.returncode for process in begun}


def test_a_stage_without_a_process_is_left_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "STAGE", ("/nowhere/python",))
    with RunFolder.open(tmp_path, "mark") as folder, Crew(folder, 2) as several:
        several.begin("judge")
        several.wait("judge")
    assert "judge              no process of its own" in capsys.readouterr().out


def test_a_process_whose_run_was_killed_stops_although_nobody_reads_what_it_says(tmp_path: Path) -> None:
    script = (
        "import pathlib, time\n"
        "from mbrl.following import follow\n"
        "try: follow(); time.sleep(60)\n"
        f"except KeyboardInterrupt: print('stopping', flush=True); pathlib.Path({str(tmp_path / 'saved')!r}).touch()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for pipe in process.stdout, process.stdin:
            assert pipe is not None
            pipe.close()
        assert process.wait(50) == 0
    assert (tmp_path / "saved").exists()


def test_a_process_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*crew.STAGE, str(tmp_path), "judge"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(50) == 130


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (["--workers", "0"], "workers is 0, expected at least 1, or auto"),
        (["--workers", "2", "--accelerator", "auto"], "workers is 2, and accelerator is auto: set workers to 1, or"),
    ],
)
@pytest.mark.usefixtures("sketched")
def test_workers_that_cannot_be_are_refused(change: list[str], error: str, tmp_path: Path) -> None:
    status, answer, _ = spoken([*config(tmp_path, SEVERAL), *change])
    assert status == 1
    assert error in answer["error"]
