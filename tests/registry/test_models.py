import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from registry_toys import LINEAGE, Fickle, Line, crown, simulator, spec

from mbrl.files import CorruptFileError
from mbrl.registry import models, promotion, store
from mbrl.registry.runs import RunLog


@pytest.fixture(scope="module")
def shared(template, tmp_path_factory):
    """One simulator and two versions of a policy, registered once for all tests that only read."""
    home = tmp_path_factory.mktemp("shared")
    shutil.copy(template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MBRL_HOME", str(home))
        with RunLog.open("tests", "a run") as log:
            models.log_simulator(log, simulator(), "toy", LINEAGE)
            for gain in (0.5, 2.0):
                models.log_policy(log, Line(spec(), gain), "toy", replace(LINEAGE, simulator="toy-simulator/1"))
    return home, log


@pytest.fixture
def registered(shared, monkeypatch):
    """The shared registry, with version 1 of the policy as the champion."""
    home, log = shared
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MBRL_HOME", str(home))
    crown("toy", "1")
    return log


@pytest.fixture
def altered(registered):
    """Change the bytes of a file of version 1 of the policy until the end of the test."""
    whole = {}

    def alter(name, change):
        path = folder() / name
        whole[path] = path.read_bytes()
        path.write_bytes(change(bytearray(whole[path])))

    yield alter
    for path, content in whole.items():
        path.write_bytes(content)


def folder(version="1", model="toy-policy"):
    source = MlflowClient(store.connect()).get_model_version(model, version).source
    return Path(mlflow.get_logged_model(source.removeprefix("models:/")).artifact_location.removeprefix("file://"))


def test_versions_carry_their_lineage_in_tags_and_manifest(registered, shared):
    client = MlflowClient(store.connect())
    policy, sim = client.get_model_version("toy-policy", "2"), client.get_model_version("toy-simulator", "1")
    data = {"mbrl.data_id": "toy/line-v0", "mbrl.data_fingerprint": "f" * 64}
    assert sim.tags == data | {models.SEALED: sim.tags[models.SEALED]}
    lineage = {**data, "mbrl.simulator": "toy-simulator/1"}
    assert policy.run_id == sim.run_id == registered.run_id
    run = client.get_run(registered.run_id)
    assert run.data.tags["mbrl.policy"] == "toy-policy/2"
    assert run.data.tags["mbrl.simulator"] == "toy-simulator/1"
    assert len(run.outputs.model_outputs) == 3
    manifest = json.loads((folder() / "artifacts" / "manifest.json").read_text())
    assert policy.tags == lineage | {models.SEALED: policy.tags[models.SEALED]}
    assert manifest["sha256"] == client.get_model_version("toy-policy", "1").tags[models.SEALED]
    assert (manifest["model"], manifest["lineage"]) == ("toy-policy", lineage)
    assert manifest["run_id"] == registered.run_id
    assert manifest["spec"] == spec().to_dict()
    there = {path.relative_to(folder()).as_posix() for path in folder().rglob("*") if path.is_file()}
    assert set(manifest["files"]) == there - {"artifacts/manifest.json", "registered_model_meta"}
    ours = {"artifact.py", "artifacts/policy.pt2", "artifacts/policy.ckpt", "artifacts/golden.npz"}
    assert set(manifest["files"]) >= ours | {"MLmodel", "requirements.txt", "input_example.json"}
    assert folder().is_relative_to(shared[0] / "artifacts")
    assert (folder() / "requirements.txt").read_text().split() == [
        f"{package}=={__import__(package).__version__.partition('+')[0]}" for package in ("mlflow", "numpy", "torch")
    ]


def test_signatures_and_examples(registered):
    info = mlflow.models.get_model_info("models:/toy-policy/1")
    assert str(info.signature.inputs) == "[Tensor('float32', (-1, 3))]"
    assert str(info.signature.outputs) == "[Tensor('float32', (-1, 2))]"
    assert mlflow.models.Model.load(str(folder())).load_input_example(str(folder())).shape == (3, 3)
    info = mlflow.models.get_model_info("models:/toy-simulator/1")
    assert info.signature.inputs.input_names() == ["obs", "action"]
    ends = [f"{name}{end}" for name in ("next_obs", "reward") for end in ("", "_low", "_high")]
    assert info.signature.outputs.input_names() == [*ends, "terminated", "uncertainty"]


def test_the_champion_moves_only_when_told(registered):
    assert promotion.champion("toy") == "1"
    assert promotion.champion("nobody") is None
    assert float(models.load_policy("models:/toy-policy@champion").gain.detach()) == 0.5
    crown("toy", "2")
    assert promotion.champion("toy") == "2"
    assert float(models.load_policy("models:/toy-policy@champion").gain.detach()) == 2.0
    assert float(models.load_policy("models:/toy-policy/1").gain.detach()) == 0.5


def test_what_is_loaded_is_what_was_logged(registered):
    policy, sim = models.load_policy("models:/toy-policy/1"), models.load_simulator("models:/toy-simulator/1")
    obs = torch.tensor([[10.0, -5.0, 0.0], [12.0, -4.0, 1.0]])
    action = policy.act(obs, None)
    assert torch.equal(action, Line(spec(), 0.5).act(obs, None))
    steps = [s.step(obs, action, torch.Generator().manual_seed(0)) for s in (sim, simulator())]
    assert all(torch.equal(a, b) for a, b in zip(*(s[:-1] for s in steps), strict=True))


def test_pyfunc_serves_the_champion_and_tells_what_it_expects(registered):
    served = mlflow.pyfunc.load_model("models:/toy-policy@champion")
    obs = np.array([[10, -5, 0], [12, -4, 1]], np.float32)
    np.testing.assert_allclose(served.predict(obs), Line(spec(), 0.5)(torch.tensor(obs)).detach(), rtol=1e-6)
    with pytest.raises(MlflowException, match="dtype of input float64 does not match expected dtype float32"):
        served.predict(obs.astype(np.float64))
    with pytest.raises(MlflowException, match=r"Shape of input \(2, 2\) does not match expected shape \(-1, 3\)"):
        served.predict(obs[:, :2])
    with pytest.raises(MlflowException, match=r"Shape of input \(3,\) does not match"):
        served.predict(obs[0])
    with pytest.raises(ValueError, match="obs is nan at row 0, column 0"):
        served.predict(obs * np.nan)


def test_pyfunc_serves_the_simulator(registered):
    served = mlflow.pyfunc.load_model("models:/toy-simulator/1")
    inputs = {"obs": np.array([[10, -5, 0]], np.float32), "action": np.array([[1, 2]], np.float32)}
    answer = served.predict(inputs)
    np.testing.assert_allclose(answer["next_obs"], [[10.6, -4.4, 0.6]], rtol=1e-5)
    np.testing.assert_allclose(answer["uncertainty"], [0.5])
    with pytest.raises(MlflowException, match=r"missing inputs \['action'\]"):
        served.predict({"obs": inputs["obs"]})


@pytest.mark.parametrize("name", ["artifacts/policy.pt2", "artifacts/policy.ckpt", "artifacts/manifest.json"])
def test_a_flipped_bit_is_found_by_both_doors_and_the_file_named(altered, name):
    def flip(raw):
        raw[len(raw) // 2] ^= 4
        return raw

    altered(name, flip)
    with pytest.raises(CorruptFileError, match=rf"models:/toy-policy@champion: .*{name} is .*altered"):
        models.load_policy("models:/toy-policy@champion")
    with pytest.raises(ValueError, match=rf"{name} is .*altered"):
        mlflow.pyfunc.load_model("models:/toy-policy@champion")


@pytest.mark.parametrize("name", ["artifact.py", "MLmodel", "requirements.txt", "input_example.json"])
def test_every_file_is_verified_also_those_that_mlflow_wrote(altered, name):
    altered(name, lambda raw: raw + b"\n")
    with pytest.raises(CorruptFileError, match=rf"{name} is truncated or altered"):
        models.load_policy("models:/toy-policy/1")
    with pytest.raises(ValueError, match=rf"{name} is truncated or altered"):
        mlflow.pyfunc.load_model("models:/toy-policy/1")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/tou-policy@champion", r"'tou-policy' in sqlite:.* registered models: toy-policy, toy-simulator"),
        ("models:/toy-policy@best", r"versions of toy-policy: \[1, 2\], aliases: \{.*'champion': \"?'?1"),
        ("models:/toy-policy/7", r"versions of toy-policy: \[1, 2\]"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(registered, uri, message):
    with pytest.raises(store.StoreError, match=message):
        models.load_policy(uri)


def test_the_champion_takes_the_simulator_that_it_was_rehearsed_in_along(registered):
    assert models.load_simulator("models:/toy-simulator@champion").spec == spec()
    (found,) = MlflowClient(store.connect()).search_registered_models("name = 'toy-simulator'")
    assert {k: str(v) for k, v in found.aliases.items()} == {"champion": "1"}


def test_a_version_that_is_not_there_cannot_be_champion(registered):
    with pytest.raises(store.StoreError, match=r"versions of toy-policy: \[1, 2\]"):
        promotion.promote("toy", "9")
    assert promotion.champion("toy") == "1"


def test_an_empty_registry_says_so(home):
    with pytest.raises(store.StoreError, match="registered models: none"):
        models.load_policy("models:/toy-policy/1")


@pytest.mark.parametrize("uri", ["toy-policy", "models:/toy-policy", "models:/a/b/c", "runs:/x/policy", "models:/m-1"])
def test_a_malformed_uri_is_refused(home, uri):
    with pytest.raises(ValueError, match="is not a model URI: expected models:/NAME-policy@champion or"):
        models.load_policy(uri)


def test_a_simulator_is_not_a_policy(registered):
    with pytest.raises(ValueError, match="models:/toy-simulator/1 is a simulator, expected a policy"):
        models.load_policy("models:/toy-simulator/1")
    with pytest.raises(ValueError, match="models:/toy-policy/1 is a policy, expected a simulator"):
        models.load_simulator("models:/toy-policy/1")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a@b", "../x", "é", "-a", "a.b", "x" * 101, "a\n"])
def test_a_name_that_the_registry_cannot_carry_is_refused_before_any_work(log, name):
    for work in (
        lambda: models.log_policy(log, Fickle(spec()), name, LINEAGE),  # which cannot be exported
        lambda: models.log_simulator(log, simulator(), name, LINEAGE),
        lambda: promotion.promote(name, "1"),
        lambda: promotion.champion(name),
    ):
        with pytest.raises(ValueError, match="expected 1 to 100 letters, digits, _ or -"):
            work()


def test_nothing_is_registered_of_what_cannot_be_exported(log):
    with pytest.raises(ValueError, match="cannot be exported"):
        models.log_policy(log, Fickle(spec()), "toy", LINEAGE)
    assert MlflowClient(store.connect()).search_registered_models() == []


def test_models_belong_to_the_runs_own_experiment(registered):
    found = mlflow.search_logged_models([registered.experiment_id], output_format="list")
    assert sorted(m.name for m in found) == ["policy", "policy", "simulator"]
    assert {m.status.value for m in found} == {"READY"}
    tagged = {tag for m in found for tag in [m.tags["mlflow.modelVersions"]]}
    assert json.dumps([{"name": "toy-policy", "version": "2"}]) in tagged


def test_a_run_may_end_after_its_models(home):
    with RunLog.open("e", "r") as log:
        log.metrics({"loss": torch.tensor(1.0)}, 0)
        assert models.log_policy(log, Line(spec()), "toy", LINEAGE) == "1"
    assert MlflowClient().get_run(log.run_id).info.status == "FINISHED"
