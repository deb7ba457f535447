import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mbrl.registry import runs, sender, store
from mbrl.registry.runs import RunLog


def client():
    return MlflowClient(store.connect())


def history(run_id, key):
    return [(m.step, m.value) for m in client().get_metric_history(run_id, key)]


def status(run_id):
    return client().get_run(run_id).info.status


@pytest.fixture
def absent(monkeypatch):
    """The store stops taking metrics and the ends of runs; call it to bring the store back."""
    calls = []

    def refuse(*arguments, **named):
        calls.append(arguments)
        raise MlflowException("API request failed: connection refused")

    patch = pytest.MonkeyPatch()
    patch.setattr(MlflowClient, "log_batch", refuse)
    patch.setattr(MlflowClient, "set_terminated", refuse)
    refuse.back = patch.undo
    refuse.calls = calls
    yield refuse
    patch.undo()


def test_a_run_with_stages(home):
    with RunLog.open("pendulum", "first") as log, log.stage("dynamics") as stage:
        assert status(stage.run_id) == "RUNNING"
        stage.metrics({"loss": 1.0}, 0)
    parent, child = client().get_run(log.run_id), client().get_run(stage.run_id)
    assert (parent.info.run_name, parent.info.status) == ("first", "FINISHED")
    assert (child.info.run_name, child.info.status) == ("dynamics", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == log.run_id
    assert child.info.experiment_id == parent.info.experiment_id == store.get_or_create("pendulum")


@pytest.mark.parametrize(
    ("error", "left"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED"), (SystemExit, "FAILED")]
)
def test_the_last_status_says_how_it_ended_and_the_error_goes_on(home, error, left):
    def work():
        with RunLog.open("e", "r") as log, log.stage("policy") as stage:
            ids.extend([log.run_id, stage.run_id])
            stage.metrics({"loss": 2.0}, 7)
            raise error("stop")

    ids = []
    with pytest.raises(error, match="stop"):
        work()
    assert [status(i) for i in ids] == [left, left]
    assert history(ids[1], "loss") == [(7, 2.0)]


def test_parameters_are_flat_and_long_values_are_cut(log):
    log.params({"policy": {"lr": 3e-4, "layers": [256, 256], "none": None, "empty": {}}, "text": "x" * 6001, "n": 1})
    kept = client().get_run(log.run_id).data.params
    assert kept.pop("text") == "x" * 5999 + "…"
    assert kept == {
        "policy.lr": "0.0003", "policy.layers": "[256, 256]", "policy.none": "None", "policy.empty": "{}", "n": "1"
    }  # fmt: skip


def test_more_parameters_and_tags_than_one_call_takes(log):
    log.params({f"p{i}": i for i in range(205)})
    log.tags({f"t{i}": "y" * 8001 for i in range(101)})
    data = client().get_run(log.run_id).data
    assert len(data.params) == 205
    assert data.tags["t100"] == "y" * 7999 + "…"


def test_a_parameter_cannot_change(log):
    log.params({"seed": 1})
    log.params({"seed": 1})
    with pytest.raises(ValueError, match=r"parameter 'seed' of run .* was 1 and is now 2: resume with"):
        log.params({"seed": 2})


def test_metrics_of_every_kind_arrive(home):
    with RunLog.open("e", "r") as log:
        log.metrics({"a": torch.tensor(1.5), "b": torch.tensor([7]), "c": 0.1, "d": 3, "e": np.float32(0.5)}, 0)
        log.metrics({"a": torch.tensor(True), "f": torch.tensor(2.0, dtype=torch.bfloat16, requires_grad=True)}, 1)
        log.metrics({"nan": torch.tensor(math.nan), "inf": torch.tensor(math.inf), "nan2": math.nan}, 2)
        log.metrics({}, 3)
    assert history(log.run_id, "a") == [(0, 1.5), (1, 1.0)]
    assert history(log.run_id, "b") == [(0, 7.0)]
    assert history(log.run_id, "c") == [(0, 0.1)]  # a Python float keeps its double precision
    assert history(log.run_id, "d") == [(0, 3.0)]
    assert history(log.run_id, "e") == [(0, 0.5)]
    assert history(log.run_id, "f") == [(1, 2.0)]
    assert math.isnan(history(log.run_id, "nan")[0][1])
    assert math.isnan(history(log.run_id, "nan2")[0][1])
    assert history(log.run_id, "inf") == [(2, np.finfo(np.float64).max)]


def test_a_tensor_that_changes_before_the_flush_is_logged_as_it_was(home):
    with RunLog.open("e", "r") as log:
        weight = torch.tensor(1.0, requires_grad=True)
        log.metrics({"weight": weight.detach()}, 0)
        weight.data.fill_(9.0)
    assert history(log.run_id, "weight") == [(0, 1.0)]


def test_nothing_is_read_from_the_device_before_the_flush(log, monkeypatch):
    def refuse(*_):
        raise AssertionError("host synchronisation")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, refuse)
        for step in range(20):
            log.metrics({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, step)
    assert history(log.run_id, "a") == []
    log.__exit__(None, None, None)
    assert history(log.run_id, "b") == [(step, 2.0) for step in range(20)]


def test_values_are_sent_500_at_a_time_or_after_two_seconds(log, monkeypatch):
    batches, real = [], MlflowClient.log_batch

    def count(self, run_id, metrics=(), **named):
        batches.append(len(metrics))
        return real(self, run_id, metrics=metrics, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    now = time.monotonic()
    monkeypatch.setattr(sender.time, "monotonic", lambda: now)
    for step in range(249):
        log.metrics({"a": torch.zeros(()), "b": torch.zeros(())}, step)
    assert batches == []
    log.metrics({"a": torch.zeros(()), "b": torch.zeros(())}, 249)
    assert batches == [500]
    log.metrics({"a": 1.0}, 250)
    now += 2.0
    log.metrics({"a": 1.0}, 251)
    assert batches == [500, 2]
    log.metrics({f"m{i}": 0.0 for i in range(1700)}, 252)
    assert batches == [500, 2, 1000, 700]


def test_bad_metrics_are_named(log):
    with pytest.raises(ValueError, match=r"metric 'loss' has shape \(7,\), expected one element"):
        log.metrics({"loss": torch.zeros(7)}, 0)
    with pytest.raises(ValueError, match="'lo=ss' is not a name that MLflow takes"):
        log.metrics({"lo=ss": 1.0}, 0)
    with pytest.raises(ValueError, match="is not a name"):
        log.params({"k" * 251: 1})


def test_a_store_that_goes_away_does_not_stop_the_work_and_is_reported_at_the_end(home, absent):
    def work():
        with RunLog.open("e", "r") as log, log.stage("policy") as stage:
            for step in range(600):
                stage.metrics({"a": torch.tensor(float(step)), "b": 1.0}, step)
            done.append(step)

    done = []
    with pytest.raises(store.StoreError, match=r"did not take the last 1200 metric values .* 2 runs.* refused"):
        work()
    assert done == [599]
    assert 0 < len(absent.calls) < 6  # not at every step: each refusal may take as long as the client's retries


def test_a_process_that_shares_a_run_leaves_its_end_alone_and_says_what_the_store_did_not_take(home, request):
    with RunLog.open("e", "r") as log:
        with RunLog.shared("e", "r", log.run_id) as beside, beside.stage("judge") as stage:
            stage.metrics({"a": 1.0}, 0)
        assert history(stage.run_id, "a") == [(0, 1.0)]
        assert [status(stage.run_id), status(log.run_id)] == ["FINISHED", "RUNNING"]
        away = request.getfixturevalue("absent")
        with (
            pytest.raises(store.StoreError, match="did not take the last 1 metric values and the end of 1 runs"),
            RunLog.shared("e", "r", log.run_id) as beside,
            beside.stage("policy") as stage,
        ):
            stage.metrics({"a": 1.0}, 0)
        away.back()


def test_a_store_that_comes_back_gets_everything(home, absent):
    with RunLog.open("e", "r") as log, log.stage("policy") as stage:
        for step in range(300):
            stage.metrics({"a": torch.tensor(float(step)), "b": 1.0}, step)
        assert absent.calls
        absent.back()
    assert history(stage.run_id, "a") == [(step, float(step)) for step in range(300)]
    assert [status(stage.run_id), status(log.run_id)] == ["FINISHED", "FINISHED"]


def test_an_error_of_the_work_is_not_hidden_by_one_of_the_store(home, absent):
    def work():
        with RunLog.open("e", "r") as log:
            log.metrics({"a": 1.0}, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        work()
    assert "did not take the last 1 metric values" in caught.value.__notes__[0]


def test_other_calls_say_what_could_not_be_logged(log, absent):
    with pytest.raises(store.StoreError, match=r"could not log params: sqlite:.*connection refused"):
        log.params({"a": 1})
    with pytest.raises(store.StoreError, match="could not log tags"):
        log.tags({"a": 1})


def test_files_text_and_tables(log, tmp_path):
    (tmp_path / "hello.txt").write_text("hello")
    log.file(tmp_path / "hello.txt")
    log.dict({"gate": {"promote": False}}, "verdict.json")
    picture = tmp_path / "rollouts.png"
    picture.write_bytes(b"png")
    log.file(picture, "figures")
    obs = np.arange(12, dtype=np.float32).reshape(4, 3)
    columns = {"obs": obs, "reward": np.arange(4.0), "terminated": np.array([False, False, True, False])}
    log.table(columns, "rollouts/sample.parquet")
    fetch = client().download_artifacts
    assert Path(fetch(log.run_id, "hello.txt")).read_text() == "hello"
    assert json.loads(Path(fetch(log.run_id, "verdict.json")).read_text()) == {"gate": {"promote": False}}
    table = pyarrow.parquet.read_table(fetch(log.run_id, "rollouts/sample.parquet"))
    assert table.column("obs").to_pylist() == obs.tolist()
    assert table.column("terminated").to_pylist() == [False, False, True, False]
    assert table.column("reward").to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert {a.path for a in client().list_artifacts(log.run_id)} == {"figures", "hello.txt", "rollouts", "verdict.json"}


def test_json_has_no_nan_and_no_infinity(log):
    log.dict({"low": float("nan"), "high": [float("inf"), 1.5]}, "odd.json")
    text = Path(client().download_artifacts(log.run_id, "odd.json")).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"low": "NaN", "high": ["Infinity", 1.5]}


def test_a_table_that_is_none_is_refused(log):
    with pytest.raises(ValueError, match=r"columns differ in length: .*'a': 2, 'b': 3"):
        log.table({"a": np.zeros(2), "b": np.zeros(3)}, "t.parquet")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.parquet"):
        log.table({"a": np.zeros(2)}, "t.csv")


def test_a_resumed_run_continues_where_it_ended(home):
    def interrupted():
        with RunLog.open("e", "r") as log:
            ids["run"] = log.run_id
            log.params({"seed": 1})
            with log.stage("dynamics"):
                pass
            with log.stage("policy") as stage:
                ids["policy"] = stage.run_id
                for step in range(5):
                    stage.metrics({"a": float(step)}, step)
                raise KeyboardInterrupt

    ids = {}
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with RunLog.open("ignored", "ignored", run_id=ids["run"]) as log:
        assert log.resumed
        assert status(log.run_id) == "RUNNING"
        log.params({"seed": 1, "new": 2})
        with log.stage("policy") as stage:
            assert stage.run_id == ids["policy"]
            for step in range(3, 8):  # from the last checkpoint on: 3 and 4 are repeated
                stage.metrics({"a": float(step), "b": float(step)}, step)
        with log.stage("evidence") as evidence:
            assert not evidence.resumed
    assert history(ids["policy"], "a") == [(step, float(step)) for step in range(8)]
    assert history(ids["policy"], "b") == [(step, float(step)) for step in range(3, 8)]
    assert [status(ids["run"]), status(ids["policy"])] == ["FINISHED", "FINISHED"]
    query = f"tags.`mlflow.parentRunId` = '{ids['run']}'"
    assert len(client().search_runs([log.experiment_id], query)) == 3
    with pytest.raises(ValueError, match=r"'seed' .* was 1 and is now 3"):
        RunLog.open("e", "r", run_id=ids["run"]).params({"seed": 3})


def test_a_run_that_is_not_there_cannot_be_resumed(log):
    with pytest.raises(store.StoreError, match="run 'feedbeef' cannot be resumed, unless MBRL_HOME is"):
        RunLog.open("e", "r", run_id="feedbeef")
    client().delete_run(log.run_id)
    with pytest.raises(store.StoreError, match="is deleted"):
        RunLog.open("e", "r", run_id=log.run_id)


def test_key_rule_is_mlflows_own():
    from mlflow.utils.validation import _validate_metric_name

    for name in ("a", "a/b", "a.b-c_d e:f", "lo=ss", "a\nb", "x" * 250, "x" * 251, "", "é"):
        try:
            _validate_metric_name(name)
            theirs = True
        except MlflowException:
            theirs = False
        assert bool(runs.NAME.fullmatch(name)) <= theirs, name
