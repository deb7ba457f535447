"""Copies between stores, and the same promotion against an MLflow server on loopback."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from promotion_toys import at_write, files_of
from registry_toys import DECISION, LINEAGE, Line, crown, environment, simulator, spec

from mbrl.registry import chronicle, models, promotion, proof, store, transfer, witnesses
from mbrl.registry.ledger import Ledger
from mbrl.registry.runs import RunLog

OBS = np.array([[10, -5, 0], [12, -4, 1]], np.float32)


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """An MLflow server of one worker, with a sqlite file behind it."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    variables = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    variables.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(command, env=variables, cwd=folder, stdout=told, stderr=told, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not _answers(uri):
            assert process.poll() is None, (folder / "told").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield uri, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(uri):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return answer.status == 200
    return False


@pytest.fixture
def dev(registry):
    """The filled registry, with version 3 as champion, whose verdict rests on a file."""
    with RunLog.open("mbrl", "evidence") as log:
        digest = log.dict({"value": 1.0}, "evidence.json")
        evidence = f"runs:/{log.run_id}/evidence.json"
    promotion.judge("toy", "3", DECISION._replace(evidence=evidence, evidence_hash=digest), author="ann")
    promotion.promote("toy", "3")
    return registry


def test_a_copy_is_whole_without_the_store_that_it_is_from(dev, template, tmp_path, monkeypatch):
    prod = tmp_path / "prod"
    prod.mkdir()
    shutil.copy(template, prod / "mlflow.db")
    label = Ledger.open("toy").entries()
    copied = transfer.copy("toy", f"sqlite:///{prod}/mlflow.db", new_name="plant")
    assert (copied.policy, copied.simulator) == ("plant-policy/1", "plant-simulator/1")
    assert store.connect() == f"sqlite:///{dev}/mlflow.db"
    assert Ledger.open("toy").entries() == label
    monkeypatch.setenv("MBRL_HOME", str(prod))
    first, second = Ledger.open("plant").entries()
    assert (first.action, first.phase, second.phase) == ("copy", "intended", "done")
    assert first.about["author"] == "ann"
    verdict = chronicle.judged(label, "3")
    assert first.about["origin"] == {
        "store": f"sqlite:///{dev}/mlflow.db",
        "entry": verdict.number,
        "hash": verdict.hash,
    }
    made = MlflowClient(store.connect()).get_model_version("plant-policy", "1")
    assert made.tags["mbrl.copied_from"] == f"sqlite:///{dev}/mlflow.db toy-policy/3"
    assert made.tags["mbrl.simulator"] == "plant-simulator/1"
    assert files_of("plant-policy", "1").is_relative_to(prod)
    with models.fetched("plant-policy", "1") as (_, manifest):
        assert manifest["origin"]["version"] == made.tags["mbrl.copied_from"]
        assert (manifest["model"], manifest["run_id"]) == ("plant-policy", made.run_id)
    assert promotion.promote("plant", "1").after == "1"
    assert proof.verify("plant") == []
    served = mlflow.pyfunc.load_model("models:/plant-policy@champion").predict(OBS)
    np.testing.assert_allclose(served, Line(spec(), 0.5)(torch.tensor(OBS)).detach(), rtol=1e-6)
    assert models.load_simulator("models:/plant-simulator@champion").spec == spec()


def test_the_same_copy_once_more_makes_no_second_one(dev, tmp_path):
    first = transfer.copy("toy", str(tmp_path / "home"), new_name="plant")
    again = transfer.copy("toy", str(tmp_path / "home"), new_name="plant")
    assert again == first._replace(entry=None, head=None)
    assert transfer.copy("toy", str(tmp_path / "home"), "2", "plant").policy == "plant-policy/2"


def test_a_store_that_was_made_anew_is_not_taken_for_the_one_it_was(dev, tmp_path, monkeypatch):
    """Numbers begin at 1 again: it is the files that say whether a copy is there already."""
    prod = tmp_path / "prod"
    assert transfer.copy("toy", str(prod), "1", "plant").policy == "plant-policy/1"
    held = MlflowClient(store.connect()).get_model_version("toy-policy", "1").tags[models.SEALED]
    with monkeypatch.context() as patch:
        patch.setenv("MBRL_HOME", str(prod))
        client = MlflowClient(store.connect())
        assert client.get_model_version("plant-policy", "1").tags["mbrl.copied_sha256"] == held
        client.set_model_version_tag("plant-policy", "1", "mbrl.copied_sha256", "0" * 64)  # as if it had held others
    assert transfer.copy("toy", str(prod), "1", "plant").policy == "plant-policy/2"


def test_a_copy_of_before_the_verdict_gets_its_evidence_later(registry, tmp_path, monkeypatch):
    with RunLog.open("mbrl", "another run") as log:
        made = models.log_policy(log, Line(spec(), 1.5), "toy", LINEAGE)
        digest = log.dict({"value": 1.0}, "evidence.json")
    prod = tmp_path / "prod"
    assert transfer.copy("toy", str(prod), f"toy-policy/{made}", "plant").entry is None
    verdict = DECISION._replace(evidence=f"runs:/{log.run_id}/evidence.json", evidence_hash=digest)
    promotion.judge("toy", made, verdict)
    assert transfer.copy("toy", str(prod), made, "plant").policy == "plant-policy/1"
    monkeypatch.setenv("MBRL_HOME", str(prod))
    assert proof.verify("plant") == []


def test_a_copy_can_be_judged_again_where_it_is(dev, tmp_path, monkeypatch):
    """What the second simulator is read from goes along, with the split of the log that it was fitted on."""
    client = MlflowClient(store.connect())
    run = client.get_model_version("toy-policy", "1").run_id
    (tmp_path / witnesses.FILE).write_bytes(b"judge")
    client.log_artifact(run, str(tmp_path / witnesses.FILE))
    client.set_tag(run, witnesses.SEAL, "a" * 64)
    client.log_param(run, "data.split", "[0.7, 0.1, 0.2]")
    prod = tmp_path / "prod"
    transfer.copy("toy", str(prod), "1", "plant")
    monkeypatch.setenv("MBRL_HOME", str(prod))
    origin = witnesses.origin("models:/plant-policy/1")
    assert (origin.split, origin.seed, origin.data_id) == ((0.7, 0.1, 0.2), 7, LINEAGE.data_id)
    there = MlflowClient(store.connect())
    assert origin.run_id == there.get_model_version("plant-policy", "1").run_id
    assert there.get_run(origin.run_id).data.tags[witnesses.SEAL] == "a" * 64
    kept = there.download_artifacts(origin.run_id, witnesses.FILE, str(tmp_path))
    assert Path(kept).read_bytes() == b"judge"


def test_a_path_of_a_sqlite_file_is_the_file(dev, tmp_path):
    first = transfer.copy("toy", str(tmp_path / "home"), new_name="plant")
    again = transfer.copy("toy", str(tmp_path / "home" / "mlflow.db"), new_name="plant")
    assert again == first._replace(entry=None, head=None)


def test_what_cannot_be_copied_is_refused(registry, damaged):
    with pytest.raises(ValueError, match="toy-policy has no champion: name a version"):
        transfer.copy("toy", str(registry), new_name="plant")
    with pytest.raises(ValueError, match=r"toy-policy/2 is in sqlite:.* already: give the copy a new name"):
        transfer.copy("toy", str(registry), "2")
    damaged("MLmodel", lambda raw: bytes(raw) + b"\n")
    with pytest.raises(promotion.RefusedError, match="MLmodel is truncated or altered"):
        transfer.copy("toy", str(registry), "1", "plant")


def test_a_server_is_promoted_on_verified_and_mended_by_the_same_code(server, home, monkeypatch):
    uri, group = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with RunLog.open("mbrl", "a run") as log:
        log.params({"seed": 3})
        models.log_simulator(log, simulator(), "far", LINEAGE)
        for gain in (0.5, 2.0):
            models.log_policy(log, Line(spec(), gain), "far", replace(LINEAGE, simulator="far-simulator/1"))
    crown("far", "1")
    crown("far", "2")
    assert promotion.rollback("far").after == "1"
    assert proof.verify("far") == []

    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with at_write(lambda: os.killpg(group, signal.SIGSTOP), 2), pytest.raises(store.StoreError, match="timeout"):
            promotion.promote("far", "2")
    os.killpg(group, signal.SIGCONT)
    assert proof.verify("far")[0].startswith("half-done: ")
    (told,) = proof.repair("far")
    assert told.startswith("finished: ")
    assert promotion.champion("far") == "2"
    assert proof.verify("far") == []


def test_from_a_home_to_a_server(dev, server):
    uri, _ = server
    copied = transfer.copy("toy", uri)
    assert (copied.policy, copied.simulator, copied.uri) == ("toy-policy/1", "toy-simulator/1", uri)
    with store.at(uri):
        assert promotion.promote("toy").after == "1"
        assert proof.verify("toy") == []


def test_a_server_that_is_not_there_is_named(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(store.StoreError, match=r"'toy-policy' in http://127.0.0.1:1"):
        promotion.promote("toy", "1")


def test_the_champion_that_a_copy_was_compared_with_is_known_by_its_own_copy(dev, tmp_path, monkeypatch):
    promotion.judge("toy", "4", DECISION._replace(champion="3"))
    promotion.judge("toy", "2", DECISION._replace(champion="1"))
    there = tmp_path / "there"
    made = [transfer.copy("toy", str(there), version).policy.rpartition("/")[2] for version in ("3", "4", "2")]
    monkeypatch.setenv("MBRL_HOME", str(there))
    known = Ledger.open("toy").entries()
    champions = [chronicle.decision(chronicle.judged(known, version)).champion for version in made]
    assert champions[:2] == [None, made[0]]
    assert champions[2].endswith(" toy-policy/1")  # which was never copied: no version of this store
