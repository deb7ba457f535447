"""The notes of a run: what is kept, and what a second process is told that wants the same folder."""

import json
import shlex
from pathlib import Path

import pytest

from mbrl import runfolder
from mbrl.runfolder import RunFolder, differences

LOG = "a" * 64
SETTINGS = {"seed": 0, "fit": {"lr": 0.001, "patience": 5}, "env": None}


def test_facts_settings_and_result_are_there_for_the_next_process(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "new" / "run", LOG) as folder:
        assert (folder.facts, folder.result) == ({"fingerprint": LOG}, None)
        folder.settle(SETTINGS)
        folder.remember(run_id="r1")
        folder.remember(version="3")
        folder.finish({"value": 1.5})
    with RunFolder.open(tmp_path / "new" / "run", LOG) as folder:
        assert folder.facts == {"fingerprint": LOG, "run_id": "r1", "version": "3"}
        assert folder.result == {"value": 1.5}
        folder.settle(SETTINGS)
        assert folder.settings == SETTINGS


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(
            NotADirectoryError, match=r"file/run cannot be made \(Not a directory\): set MBRL_HOME, or --folder"
        ),
        RunFolder.open(tmp_path / "file" / "run", LOG),
    ):
        pass


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, LOG) as folder:
        folder.settle(SETTINGS)
        with pytest.raises(ValueError, match=r"env was None, is Hopper-v5; fit\.lr was 0\.001, is 0\.01; seed was 0"):
            folder.settle({"seed": 1, "fit": {"lr": 0.01, "patience": 5}, "env": "Hopper-v5"})
    assert (tmp_path / "config.yaml").read_text().startswith("seed: 0\n")


def test_the_way_to_go_on_can_be_pasted(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "my runs" / "ü", LOG) as folder:
        assert shlex.split(folder.again) == ["mbrl", "run", "--config", str(tmp_path / "my runs" / "ü" / "config.yaml")]
        folder.settle(SETTINGS)
        with pytest.raises(ValueError, match=r"Continue it with `mbrl run --config '.*/my runs/ü/config\.yaml'`, or"):
            folder.settle({**SETTINGS, "seed": 1})


def test_another_log_is_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, LOG) as folder:
        folder.remember(run_id="r1")
    with (
        pytest.raises(
            ValueError, match="begun on a log with fingerprint aaaaaaaaaaaa, and the log now has bbbbbbbbbbbb"
        ),
        RunFolder.open(tmp_path, "b" * 64),
    ):
        pass


def test_only_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, LOG),
        pytest.raises(ValueError, match="belongs to a run that another process is working on"),
        RunFolder.open(tmp_path, LOG),
    ):
        pass
    with RunFolder.open(tmp_path, LOG) as folder:
        assert folder.path == tmp_path


def test_a_folder_is_put_aside_under_a_name_of_its_own_unless_someone_works_in_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunFolder.open(run, LOG) as folder:
        folder.remember(run_id="r1")
        with pytest.raises(ValueError, match="run belongs to a run that another process is working on"):
            runfolder.aside(run)
    (tmp_path / "run.old-1").mkdir()
    assert runfolder.aside(run) == tmp_path / "run.old-2"
    assert json.loads((tmp_path / "run.old-2" / "run.json").read_text())["run_id"] == "r1"
    assert not run.exists()


@pytest.mark.parametrize("content", ["{", json.dumps([1]), json.dumps({"run_id": "r1"})])
def test_a_damaged_note_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"), RunFolder.open(tmp_path, LOG):
        pass


def test_a_stage_is_made_by_one_process_and_a_run_goes_on_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runfolder, "PATIENCE", 0.05)
    with RunFolder.open(tmp_path, LOG) as folder:
        folder.remember(run_id="r1")
        with RunFolder.beside(tmp_path, LOG, "judge") as judge, RunFolder.beside(tmp_path, LOG, "policy") as policy:
            judge.remember(judge_seconds=2.0)
            assert policy.facts == {"fingerprint": LOG, "run_id": "r1"}
            with (
                pytest.raises(ValueError, match="another process makes judge in"),
                RunFolder.beside(tmp_path, LOG, "judge"),
            ):
                pass
    with (
        RunFolder.beside(tmp_path, LOG, "judge"),
        pytest.raises(ValueError, match="belongs to a run that another process is working on"),
        RunFolder.open(tmp_path, LOG),
    ):
        pass
    with RunFolder.open(tmp_path, LOG) as folder:
        folder.join("judge")
        assert folder.facts["judge_seconds"] == 2.0


def test_what_says_how_a_run_is_made_may_change_while_it_is(tmp_path: Path) -> None:
    begun = {"workers": 1, "fit": {"lr": 0.1, "shared": None}, "shared": 3}
    other = {"workers": "auto", "fit": {"lr": 0.1, "shared": str(tmp_path)}, "shared": 3}
    assert differences(begun, other) == ""
    assert differences(begun, other | {"shared": 4, "fit": {"lr": 0.2}}) == "fit.lr was 0.1, is 0.2; shared was 3, is 4"
