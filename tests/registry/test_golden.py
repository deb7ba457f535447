"""Golden pairs of policies with a history, with Discrete actions, and both: replayed by promotion and by rollback."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from promotion_toys import files_of
from registry_toys import DECISION, LINEAGE, Line, Recall, remembering_spec, spec

from mbrl.registry import models, promotion, proof
from mbrl.registry.promotion import RefusedError
from mbrl.registry.runs import RunLog
from mbrl.serving import artifact, golden
from mbrl.window import Remembering


@pytest.fixture(params=["history", "history, Discrete", "Discrete", "an action that cannot move"])
def made(request, home):
    """Two versions with a verdict in their favour. The policy of the first."""
    discrete, remembers = "Discrete" in request.param, "history" in request.param
    plain = spec(discrete)
    if "cannot move" in request.param:
        plain = replace(plain, action_low=(-1.0, 0.3), action_high=(3.0, 0.3))
    first, second = (Recall(remembering_spec(discrete)) if remembers else Line(plain) for _ in range(2))
    with torch.no_grad():
        for weights in second.parameters():
            weights.neg_()
    with RunLog.open("mbrl", "a run") as log:
        for policy in (first, second):
            models.log_policy(log, policy, "toy", LINEAGE)
    for version in "12":
        promotion.judge("toy", version, DECISION)
    return first


def pairs(version):
    with np.load(files_of("toy-policy", version) / "artifacts" / "golden.npz") as kept:
        return kept["obs"], kept["action"]


def said(policy, obs):
    """What the policy answers to [T, 32, F] observations of 32 streams, step by step."""
    module, answers = Remembering(policy), []
    past, began = torch.zeros(golden.ROWS, policy.spec.obs_dim - policy.spec.frame_dim), torch.ones(golden.ROWS) > 0
    with torch.no_grad():
        for rows in torch.from_numpy(obs):
            answered = module(rows, past, began)
            answers.append(answered["action"].numpy())
            past, began = answered["past"], torch.zeros_like(began)
    return np.stack(answers)


def reseal(folder, action):
    """Other answers, under a manifest that knows of them, so that nothing but a replay can find out."""
    path = folder / "artifacts" / "golden.npz"
    with np.load(path) as kept:
        obs = kept["obs"]
    np.savez(path, obs=obs, action=action)
    manifest = folder / "artifacts" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["artifacts/golden.npz"] = hashlib.sha256(path.read_bytes()).hexdigest()
    del content["sha256"]
    manifest.write_text(json.dumps(artifact.seal(content)))


def test_they_are_replayed_on_the_way_there_and_back(made):
    """Of one step without a history; of four with a history of three, so that the oldest leaves the window."""
    obs, action = pairs("1")
    assert obs.shape == (made.spec.history + (made.spec.history > 1), golden.ROWS, made.spec.frame_dim)
    assert action.shape == obs.shape[:2] + (() if made.spec.discrete else (made.spec.action_dim,))
    np.testing.assert_allclose(said(made, obs), action, atol=1e-5)
    assert (action != pairs("2")[1]).any()
    assert [promotion.promote("toy", version).after for version in "12"] == ["1", "2"]
    assert promotion.rollback("toy").after == "1"
    assert proof.verify("toy") == []
    promotion.promote("toy", "2")
    action[-1, 5] = 1 - action[-1, 5] if made.spec.discrete else 0.99 * action[-1, 5]
    reseal(files_of("toy-policy", "1"), action)
    last = rf"golden.npz is not reproduced: to observation 5 of step {len(action) - 1} the policy answers"
    with pytest.raises(RefusedError, match=last):
        promotion.rollback("toy")
    assert promotion.champion("toy") == "2"
    assert [line.split(":")[0] for line in proof.verify("toy")] == ["toy-policy/1"]


@pytest.mark.parametrize("rows", [[7], range(golden.ROWS)], ids=["one answer", "all answers"])
def test_an_answer_that_is_no_number_is_named(rows, tmp_path, monkeypatch):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    wanted = np.ones((1, golden.ROWS, 1), np.float32)
    np.savez(folder / golden.GOLDEN, obs=np.zeros((1, golden.ROWS, 2), np.float32), action=wanted)
    found = wanted[0].copy()
    found[list(rows)] = np.nan

    class Broken:
        manifest = {"spec": {"discrete": False, "action_low": [-1.0], "action_high": [1.0]}, "past": 0}  # noqa: RUF012

        def __init__(self, folder):
            del folder

        def __call__(self, obs):
            return found

    monkeypatch.setattr(artifact, "Program", Broken)
    with pytest.raises(ValueError, match=rf"to observation {rows[0]} of step 0 the policy answers \[nan\], and"):
        golden.check(tmp_path, "toy-policy/1")
