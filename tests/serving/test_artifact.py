import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from registry_toys import LINEAGE, Line, crown, environment, simulator, spec

from mbrl.registry import models
from mbrl.registry.runs import RunLog
from mbrl.serving import artifact, export

ALONE = """
import json, sys
import mlflow.pyfunc, numpy as np
obs = np.array([[10, -5, 0], [12, -4, 1], [6, -8, -1]], np.float32)
loaded = [mlflow.pyfunc.load_model(uri) for uri in sys.argv[1:]]
answers = [(str(m.predict(obs).dtype), m.predict(obs).tolist(), m.predict(obs[1:2]).tolist()) for m in loaded]
print(json.dumps([answers, [name for name in sys.modules if name.startswith("mbrl")]]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sealed policy and a sealed simulator as MLflow lays them out, without MLflow."""
    made = {}
    for kind, inputs in (("policy", {"obs": 3}), ("simulator", {"obs": 3, "action": 2})):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "artifacts").mkdir()
        if kind == "policy":
            export.export_policy(Line(spec(), gain=0.5), folder / "artifacts")
        else:
            export.export_simulator(simulator(), folder / "artifacts")
        names = [f"artifacts/{kind}.pt2", f"artifacts/{kind}.ckpt"]
        content = {"kind": kind, "inputs": inputs, "files": {n: export.files.sha256(folder / n) for n in names}}
        (folder / artifact.MANIFEST).write_text(json.dumps(artifact.seal(content), indent=2))
        made[kind] = folder
    return made


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders["policy"], tmp_path / "model")


def flip(path, position):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def test_a_policy_answers_with_normalisation_and_bounds_inside(folders):
    program = artifact.Program(folders["policy"])
    # z = (obs - mean) / std = (1, 1): middle (1, 2), half ranges (2, 2), gain 0.5
    squashed = np.tanh(0.5)
    np.testing.assert_allclose(
        program(np.array([[12, -4, 0]], np.float32)), [[1 + 2 * squashed, 2 + 2 * squashed]], 1e-6
    )
    np.testing.assert_allclose(program(np.full((5, 3), 1e9, np.float32)), [[3.0, 4.0]] * 5)


@pytest.mark.parametrize("rows", [1, 2, 64, 1000])
def test_any_number_of_rows_is_answered_as_the_module_answers(folders, rows):
    obs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)) * 5
    answer = artifact.Program(folders["policy"])(obs.numpy())
    np.testing.assert_allclose(answer, Line(spec(), gain=0.5)(obs).detach(), rtol=1e-5, atol=1e-6)
    assert answer.dtype == np.float32


def test_a_simulator_answers_by_name(folders):
    obs, action = np.array([[10.0, -5.0, 0.0]] * 2, np.float32), np.array([[1, 1], [0, 0]], np.float32)
    answer = artifact.Program(folders["simulator"])({"obs": obs, "action": action})
    assert {k: v.shape for k, v in answer.items()} == {
        "next_obs": (2, 3),
        "next_obs_low": (2, 3),
        "next_obs_high": (2, 3),
        "reward": (2,),
        "reward_low": (2,),
        "reward_high": (2,),
        "terminated": (2,),
        "uncertainty": (2,),
    }


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((2, 3)), r"obs is dtype float64, expected a numpy array of float32; convert with"),
        ([[1.0, 2.0, 3.0]], r"obs is a list, expected a numpy array of float32"),
        (np.zeros((2, 4), np.float32), r"obs has shape \(2, 4\), expected \(rows, 3\) with at least one row"),
        (np.zeros(3, np.float32), r"obs has shape \(3,\), expected \(rows, 3\)"),
        (np.zeros((0, 3), np.float32), r"obs has shape \(0, 3\), expected \(rows, 3\) with at least one row"),
        (np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), r"obs is nan at row 1, column 1, expected finite"),
        (np.array([[0, 0, -np.inf]], np.float32), r"obs is -inf at row 0, column 2"),
        (
            np.array([[0, 0, 0], [0, 3.4e38, 0]], np.float32),
            r"obs is 3\.\d+e\+38 at row 1, column 1, expected finite numbers of 1e\+30 at most in size",
        ),
        ({"state": np.zeros((1, 3), np.float32)}, r"inputs are \['state'\], expected \['obs'\]"),
    ],
)
def test_a_wrong_observation_is_told_what_was_expected(folders, obs, message):
    with pytest.raises(ValueError, match=message):
        artifact.Program(folders["policy"])(obs)


def test_an_answer_that_is_not_finite_is_none(folders):
    program = artifact.Program(folders["policy"])
    honest, obs = program.module, np.array([[1, 2, 3], [9, -40, 0]], np.float32)
    program.module = lambda obs: honest(obs).masked_fill(obs[:, 1:] < -30, torch.nan)
    with pytest.raises(ValueError, match="action is not finite at row 1, whose largest input is 40: expected inputs"):
        program(obs)
    assert program(obs[:1]).shape == (1, 2)


def test_a_simulator_wants_as_many_actions_as_observations(folders):
    inputs = {"obs": np.zeros((1, 3), np.float32), "action": np.zeros((2, 2), np.float32)}
    with pytest.raises(ValueError, match=r"inputs differ in their number of rows: \{'obs': 1, 'action': 2\}"):
        artifact.Program(folders["simulator"])(inputs)


@pytest.mark.parametrize("name", ["policy.pt2", "policy.ckpt"])
@pytest.mark.parametrize("position", [0, 777, -1])
def test_one_flipped_bit_is_found_and_the_file_named(folder, name, position):
    flip(folder / "artifacts" / name, position)
    with pytest.raises(ValueError, match=rf"artifacts/{name} is truncated or altered: SHA-256 is \w+, expected \w+"):
        artifact.Program(folder)


@pytest.mark.parametrize("name", ["policy.pt2", "policy.ckpt", "manifest.json"])
def test_a_truncated_or_missing_file_is_named(folder, name):
    path = folder / "artifacts" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"artifacts/{name} is .*truncated or altered"):
        artifact.read(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"artifacts/{name} is missing"):
        artifact.read(folder)


def test_every_flipped_bit_that_changes_the_manifest_is_found(folder):
    path = folder / artifact.MANIFEST
    whole = path.read_bytes()
    content = json.loads(whole)
    for position in range(len(whole)):
        flip(path, position)
        try:
            changed = json.loads(path.read_bytes()) != content
        except ValueError:
            changed = True
        if changed:
            with pytest.raises(ValueError, match=r"manifest\.json is .*altered"):
                artifact.read(folder)
        path.write_bytes(whole)
    assert artifact.read(folder) == content


@pytest.mark.parametrize("text", ["[]", "{}", '{"sha256": 1}', "null"])
def test_a_foreign_manifest_is_named(folder, text):
    (folder / artifact.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is missing, truncated or altered"):
        artifact.read(folder)


def test_registered_policies_work_in_a_fresh_process_without_pickles_or_mbrl(home):
    policies = [Line(spec()), Line(spec(discrete=True))]
    with RunLog.open("e", "r") as log:
        for policy, name in zip(policies, ("box", "discrete"), strict=True):
            crown(name, models.log_policy(log, policy, name, LINEAGE))
    variables = environment(
        MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow.db", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", PYTHONPATH=""
    )
    command = [sys.executable, "-c", ALONE, "models:/box-policy@champion", "models:/discrete-policy@champion"]
    done = subprocess.run(command, env=variables, cwd=home, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    answers, imported = json.loads(done.stdout)
    obs = torch.tensor([[10.0, -5.0, 0.0], [12.0, -4.0, 1.0], [6.0, -8.0, -1.0]])
    for policy, (dtype, answer, one) in zip(policies, answers, strict=True):
        expected = policy(obs).detach()
        assert dtype == str(expected.numpy().dtype) == ("int64" if policy.spec.discrete else "float32")
        np.testing.assert_allclose(answer, expected, rtol=1e-6)
        np.testing.assert_allclose(one, expected[1:2], rtol=1e-6)
    announced = {"mbrl.simulator", "mbrl.simulator.registration"}  # to Gymnasium, whenever mbrl is imported
    assert set(imported) <= {"mbrl", "mbrl.registry", "mbrl.registry.source"} | announced  # by MLflow's entry point
