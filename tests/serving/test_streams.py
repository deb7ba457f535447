"""A policy with a history at work: its own window of every stream equals the data set's, row by row."""

import json
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from registry_toys import LINEAGE, Line, Recall, remembering_spec, spec

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.evaluation.evidence import acting
from mbrl.registry import models
from mbrl.serving import artifact, export

LENGTHS = (7, 4, 5)


def played(policy):
    """A plain log [N, F] of three episodes in which this very policy acted, and its windows.

    What is observed is noise; each action is the policy's at the window that the log so far makes.
    """
    of, rows = policy.spec, sum(LENGTHS)
    obs, next_obs = torch.randn(rows, 2, generator=generator(0, "obs")), torch.zeros(rows, 2)
    action, ends = torch.zeros(rows, of.action_dim), np.cumsum(LENGTHS) - 1
    episode = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    next_obs[:-1] = obs[1:]
    last = torch.zeros(rows, dtype=torch.bool)
    last[ends] = True
    columns = {"obs": obs, "next_obs": next_obs, "reward": torch.zeros(rows), "episode": episode}
    for row in range(rows):  # an action changes the later windows of its own episode only
        log = TransitionDataset.create(
            "toy/played-v0", **columns, action=action, terminated=~last & False, truncated=last,
            discrete=of.discrete, action_low=of.action_low, action_high=of.action_high,
        )  # fmt: skip
        action[row] = policy.act(windowed(log, of.history).obs[row : row + 1], None)[0].detach()
    return log, windowed(log, of.history)


@pytest.fixture(scope="module", params=[False, True], ids=["box", "discrete"])
def world(request, tmp_path_factory):
    """(policy, its program in use, the plain log that it made, the windows of that log)."""
    torch.manual_seed(0)
    policy, folder = Recall(remembering_spec(request.param)), tmp_path_factory.mktemp("policy")
    (folder / "artifacts").mkdir()
    export.export_policy(policy, folder / "artifacts")
    names = ["artifacts/policy.pt2", "artifacts/policy.ckpt"]
    inputs = {"obs": 2}
    content = {"kind": "policy", "inputs": inputs, "past": policy.spec.obs_dim - 2}
    content["files"] = {n: export.files.sha256(folder / n) for n in names}
    (folder / artifact.MANIFEST).write_text(json.dumps(artifact.seal(content)))
    return policy, artifact.Program(folder), *played(policy)


@pytest.fixture
def streams(world):
    return artifact.Streams(world[1])


def logged(world, rows):
    """What the log says that the policy did in these rows."""
    action = world[2].action[rows]
    return (action.argmax(-1) if world[0].spec.discrete else action).numpy()


def told(streams, world, row, **params):
    return streams(world[2].obs[row : row + 1].numpy(), params)


def test_one_stream_row_by_row(world, streams):
    data = world[2]
    for row in range(len(data)):
        answer = told(streams, world, row, reset=[row in data.first])
        np.testing.assert_allclose(answer, logged(world, [row]), rtol=1e-5, err_msg=f"row {row}")


def test_the_window_in_use_is_the_data_sets(world, streams):
    data, windows = world[2:]
    for row in range(len(data)):
        told(streams, world, row, reset=[row in data.first])
        if row + 1 < len(data) and row + 1 not in data.first:
            held = torch.cat([data.obs[row + 1 : row + 2], streams._placed], -1)
            torch.testing.assert_close(held, windows.obs[row + 1 : row + 2])


def test_streams_by_name_in_any_order_and_company(world, streams):
    data, order = world[2], generator(1, "order")
    done = [0] * len(LENGTHS)
    while any(d < n for d, n in zip(done, LENGTHS, strict=True)):
        alive = [k for k in torch.randperm(3, generator=order).tolist() if done[k] < LENGTHS[k]]
        chosen = alive[: int(torch.randint(1, len(alive) + 1, (), generator=order))]
        rows = [int(data.first[k]) + done[k] for k in chosen]
        answer = streams(data.obs[rows].numpy(), {"stream": [f"machine {k}" for k in chosen]})
        np.testing.assert_allclose(answer, logged(world, rows), rtol=1e-5)
        for k in chosen:
            done[k] += 1


def test_streams_by_place_with_some_that_begin_anew(world, streams):
    data = world[2]  # places 0 and 1: episodes 0 and 1; after its four rows, place 1 plays episode 2
    for step in range(7):
        other = int(data.first[1]) + step if step < 4 else int(data.first[2]) + step - 4
        answer = streams(data.obs[[step, other]].numpy(), {"reset": [False, step == 4]})
        np.testing.assert_allclose(answer, logged(world, [step, other]), rtol=1e-5)


def test_a_call_that_resets_all_is_stateless(world, streams):
    data = world[2]
    told(streams, world, 0)
    starts = streams(data.starts.numpy(), {"reset": [True]})
    np.testing.assert_allclose(starts, logged(world, data.first), rtol=1e-5)
    np.testing.assert_array_equal(streams(data.starts[:2].numpy(), {"reset": [True, True]}), starts[:2])


def test_true_episodes_are_remembered_apart(world):
    policy, _, data, _ = world
    act, rows = acting(policy), {k: int(data.first[k]) for k in range(3)}
    for step in range(max(LENGTHS)):
        alive = [k for k in (2, 0, 1) if step < LENGTHS[k]]
        here = [rows[k] + step for k in alive]
        np.testing.assert_allclose(act(data.obs[here].numpy(), alive), logged(world, here), rtol=1e-5)


def test_an_error_changes_nothing(world, streams):
    told(streams, world, 0)
    for obs, params in (
        (np.full((1, 2), np.nan, np.float32), {}),
        (np.zeros((2, 2), np.float32), {}),
        (np.zeros((1, 2), np.float32), {"reset": [True, False]}),
    ):
        with pytest.raises(ValueError, match=r"nan|without names|reset has 2 values"):
            streams(obs, params)
    np.testing.assert_allclose(told(streams, world, 1), logged(world, [1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "params", "message"),
    [
        (2, {"stream": ["a"]}, "stream has 1 names for 2 rows, expected one a row"),
        (2, {"stream": ["a", "a"]}, "stream names 'a' twice in one call, expected one row a stream"),
        (3, {"reset": [True, False]}, "reset has 2 values for 3 rows, expected one for all or one a row"),
        (2, {}, r"2 rows without names, and 1 in the call before: .*\{'stream': \[...\]\}.*\{'reset': \[True\]\}"),
        (2, {"reset": [True, False]}, "2 rows without names, and 1 in the call before"),
    ],
)
def test_what_is_not_clear_is_refused(world, streams, rows, params, message):
    told(streams, world, 0)
    with pytest.raises(ValueError, match=message):
        streams(np.zeros((rows, 2), np.float32), params)


def test_the_streams_used_last_are_remembered(world, streams, monkeypatch):
    monkeypatch.setattr(artifact, "MOST_STREAMS", 2)
    for name in ("a", "b", "a", "c"):
        told(streams, world, 0, stream=[name])
    assert list(streams._named) == ["a", "c"]
    told(streams, world, 0, stream=["b"])
    np.testing.assert_array_equal(streams._named["b"], streams._named["c"])  # b began anew, as c did
    streams(world[2].obs[:3].numpy(), {"stream": ["x", "y", "z"]})
    assert list(streams._named) == ["x", "y", "z"]  # a call is never cut


def test_threads_do_not_mix_their_streams(world, streams):
    data = world[2]

    def whole(k):
        rows = range(int(data.first[k]), int(data.first[k]) + LENGTHS[k])
        return np.concatenate([told(streams, world, row, stream=[str(k)]) for row in rows])

    with ThreadPoolExecutor(3) as pool:
        for k, answer in enumerate(pool.map(whole, range(3))):
            np.testing.assert_allclose(answer, logged(world, data.rows(torch.tensor([k]))), rtol=1e-5)


def test_the_registered_policy_takes_plain_observations(log, world):
    policy, _, data, _ = world
    models.log_policy(log, policy, "toy", LINEAGE)
    served = mlflow.pyfunc.load_model("models:/toy-policy/1")
    assert str(served.metadata.signature.inputs) == "[Tensor('float32', (-1, 2))]"
    for row in range(LENGTHS[0]):
        answer = served.predict(data.obs[row : row + 1].numpy(), params={"stream": ["a"]})
        np.testing.assert_allclose(answer, logged(world, [row]), rtol=1e-5)
    again = served.predict(data.obs[:1].numpy(), params={"stream": ["a"], "reset": [True]})
    np.testing.assert_allclose(again, logged(world, [0]), rtol=1e-5)
    assert models.load_policy("models:/toy-policy/1").spec == policy.spec
    for wrong in ({"stream": "a"}, {"stream": [1]}, {"reset": True}):
        with pytest.raises(MlflowException, match="Invalid parameters found"):
            served.predict(data.obs[:1].numpy(), params=wrong)
    with pytest.raises(MlflowException, match=r"\(-1, 2\)"):
        served.predict(np.zeros((1, 8), np.float32))


def test_a_policy_without_a_history_is_called_in_the_same_way(log):
    models.log_policy(log, Line(spec()), "line", LINEAGE)
    served = mlflow.pyfunc.load_model("models:/line-policy/1")
    obs = np.array([[10, -5, 0], [12, -4, 1]], np.float32)
    plain = served.predict(obs)
    np.testing.assert_array_equal(served.predict(obs, params={"stream": ["a", "b"], "reset": [True]}), plain)
    np.testing.assert_array_equal(served.predict(obs[:1]), plain[:1])
    np.testing.assert_array_equal(served.predict(obs[::-1]), plain[::-1])
    for params, message in (
        ({"stream": ["a"]}, "stream has 1 names for 2 rows"),
        ({"reset": [True] * 3}, "reset has 3"),
    ):
        with pytest.raises(ValueError, match=message):
            served.predict(obs, params=params)
