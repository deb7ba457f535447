"""A past that is logged along with the present: it is found in the log, copied exactly, and never learned."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import Known, Watched, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble
from mbrl.core import Batch, Spec, generator
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.exact import CHANGES
from mbrl.data.history import windowed
from mbrl.simulator.card import report_card
from mbrl.simulator.ranges import ranges
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.structure import without
from mbrl.training.bootstrap import Runs
from mbrl.training.lookahead import Lookahead

ROWS = CHANGES + 1

# a level, the level before, the last action, and the action before that: F is 4, so that 4 is the action
STACKED = replace(unit_spec(4), predicted=(), carried=(1, 2, 3), sources=(0, 4, 2))
OBS, ACTION = torch.tensor([[5.0, 4.0, 0.3, 0.2]]), torch.tensor([[-0.5]])
NEXT = torch.tensor([[6.0, 5.0, -0.5, 0.3]])  # member 0 of Known says that the level rises by 1


def stacked(rows: int = ROWS) -> dict[str, Tensor]:
    """Columns [rows, ...] of one episode: a random level, the level before, the last action, the one before that."""
    rng = generator(0, "test")
    level, action = torch.randn(rows + 2, generator=rng), torch.rand(rows + 2, generator=rng) * 2 - 1
    obs = torch.stack([level[1:], level[:-1], action[:-1], torch.cat([action[:1], action[:-2]])], 1)
    return {"obs": obs[:-1], "action": action[1:-1, None], "next_obs": obs[1:]}


def log(columns: dict[str, Tensor], **more: Any) -> TransitionDataset:
    rows, width = columns["action"].shape
    chosen = {"discrete": False, "action_low": [-1.0] * width, "action_high": [1.0] * width, **more}
    episode = chosen.pop("episode", torch.zeros(rows, dtype=torch.long))
    return TransitionDataset.create(
        "toy/stacked-v0",
        **columns,
        reward=torch.zeros(rows),
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=episode.diff(append=torch.tensor([-1])) != 0,
        episode=episode,
        **chosen,
    )


def found(columns: dict[str, Tensor], **more: Any) -> tuple[tuple[int, ...], ...]:
    spec = log(columns, **more).spec(torch.tensor([0]))
    return spec.carried, spec.sources, spec.predicted


def test_what_repeats_an_earlier_value_in_every_row_is_found() -> None:
    columns = stacked()
    assert found(columns) == ((1, 2, 3), (0, 4, 2), (0,))
    assert found(columns, exogenous=[2]) == ((1, 3), (0, 2), (0,))
    once = columns["next_obs"].clone()
    once[50, 1] += 1e-3
    assert found({**columns, "next_obs": once})[0] == (2, 3)
    assert found({name: column[:-2] for name, column in columns.items()})[0] == ()  # in 99 rows, flags might agree
    spec = windowed(log(columns), 2).spec(torch.tensor([0]))  # the newest observation comes first in a window
    assert (spec.carried, spec.sources, spec.predicted) == ((1, 2, 3), (0, 4, 2), (0,))


def test_the_audit_names_them_and_takes_none_of_them_for_a_sensor() -> None:
    columns = stacked(2000)
    columns["obs"][100:130, 3] = columns["next_obs"][99:129, 3] = (
        0.25  # resting actions, which are no fault of a sensor
    )
    (note,) = [f for f in audit(log(columns)).findings if f.kind == "stacked past"]
    assert (note.severity, note.channels) == ("note", ("observation 1", "observation 2"))
    columns = stacked(2000)
    columns["action"][100:130] = 0.25
    columns["obs"][101:131, 2] = columns["next_obs"][100:130, 2] = 0.25
    columns["obs"][102:132, 3] = columns["next_obs"][101:131, 3] = 0.25
    found = {f.kind: f for f in audit(log(columns)).findings}
    assert found["stacked past"].found.startswith(
        "3 of 4 channels are what another one, or the action, was a row before: observation 1 is observation 0;"
        " observation 2 is action 0; observation 3 is observation 2"
    )
    assert "stuck sensor" not in found


def test_an_action_goes_before_an_observation_and_a_model_is_left_a_channel() -> None:
    columns = stacked()
    obs = torch.cat([columns["obs"][:, :3], columns["action"]], 1)  # an order, which is what was done
    assert found({**columns, "obs": obs})[:2] == ((1, 2, 3), (0, 4, 2))
    alone = {name: column[:, 2:] if name != "action" else column for name, column in columns.items()}
    assert found(alone) == ((0,), (2,), (1,))  # every channel is carried, and yet the last one is predicted


def test_choices_are_carried_one_by_one() -> None:
    rng = generator(0, "test")
    taken = torch.nn.functional.one_hot(torch.randint(3, (4 * ROWS,), generator=rng), 3).float()
    level = torch.randn(4 * ROWS, 1, generator=rng)
    obs = torch.cat([level[:-1], taken[:-1]], 1)
    columns = {"obs": obs[:-1], "action": taken[1:-1], "next_obs": obs[1:]}
    assert found(columns, discrete=True, action_low=[0.0] * 3, action_high=[1.0] * 3) == ((1, 2, 3), (4, 5, 6), (0,))


def test_a_simulator_copies_them_for_rows_and_for_particles() -> None:
    world = Simulator(Known(STACKED, 1), STACKED)
    assert STACKED.predicted == (0,)
    assert torch.equal(world.step(OBS, ACTION, generator(0, "test")).next_obs, NEXT)
    particles, _, _ = world.propagate(OBS.expand(1, 1, 4), ACTION, generator(0, "test"))
    assert torch.equal(particles[0], NEXT)


def test_copies_reach_as_far_as_what_they_are_of_and_no_further_than_the_plant() -> None:
    logged = replace(STACKED, obs_low=(-1.0, -1.0, -0.5, -0.5), obs_high=(9.0, 9.0, 0.5, 0.5))
    low, high = ranges(logged, 0.1)
    assert low[:4].tolist() == [-2, -2, -1, -1]  # a policy may do more than the log's did: actions from -1 to 1
    assert high[:4].tolist() == [10, 10, 1, 1]
    bound = replace(logged, bound_low=(None, 0.0, None, None, None), bound_high=(None, 4.5, None, None, None))
    world = Simulator(Known(bound, 1), bound)
    after = torch.tensor([[6.0, 4.5, -0.5, 0.3]])
    assert torch.equal(world.step(OBS, ACTION, generator(0, "test")).next_obs, after)
    assert (world.low[1], world.high[1]) == (0, 4.5)
    past = windowed(log(stacked()), 2).spec(torch.tensor([0]))
    wide, older = ranges(past, 0.0)[1][:8].split(4)
    assert torch.equal(wide, older)
    assert float(wide[2]) == 1


def test_one_row_of_any_episode_refutes_a_copy_and_the_card_says_what_is_copied() -> None:
    columns = stacked(2 * ROWS)
    columns["next_obs"][-1, 1] += 1e-3
    data = log(columns, episode=torch.arange(2 * ROWS) // ROWS)
    spec = data.spec(torch.tensor([0]))  # though it is not of this one
    assert spec.carried == (2, 3)
    world = Simulator(Known(STACKED, 1), STACKED)
    world.calibrate(data.batch(data.rows(torch.tensor([0]))))
    sides = torch.tensor([0]), torch.tensor([1])
    numbers = report_card(world, data, sides[1], calibrated_on=sides[0], seed=0, about={}, horizon=5).numbers
    assert [row["agrees"] for row in numbers["carried"]] == [pytest.approx(1 - 1 / ROWS), 1, 1]
    assert numbers["carried"][1] == {"channel": "observation 2", "source": "action 0", "agrees": 1}
    told = [reason["text"] for reason in numbers["verdict"]["reasons"] if "it copies" in reason["text"]]
    assert [text.partition(":")[0] for text in told] == [
        "it copies observation 0 into the next observation 1, as its own log does"
    ]


def test_a_model_that_is_followed_reads_its_own_past() -> None:
    level = torch.tensor([0.0, 0.0, 0.0, 0.0])  # at rest, and Known says that it rises
    obs = torch.stack([level, level, level, level], 1)
    rows = Batch(obs[None, :3], torch.zeros(1, 3, 1), torch.zeros(1, 3), obs[None, 1:], torch.zeros(1, 3).bool())
    model = Watched(STACKED, 1)
    Lookahead(STACKED, 3).squares(model, Runs(rows, torch.ones(1, 3).bool()))
    assert model.seen == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0]]  # not the 0 that was logged in the place of the 1


def test_a_network_has_no_output_for_them() -> None:
    spec = log(stacked()).spec(torch.tensor([0]))
    model = ProbabilisticEnsemble(spec, members=2, elites=1, layers=1, hidden=8)
    prediction = model.predict(OBS, ACTION)
    assert prediction.obs_std[0, 0].count_nonzero() == 1
    assert model.gaussian.mlp.weights[-1].shape[-1] == 2  # mean and log-variance of the level


def test_a_function_that_computes_one_has_the_say_and_a_channel_has_one_origin() -> None:
    left = without(STACKED, (2,))
    assert (left.carried, left.sources, left.predicted) == ((1, 3), (0, 2), (0,))
    alone = without(STACKED, (0,))  # a model has to have a channel, and gets back one that was carried
    assert (alone.carried, alone.predicted) == ((1, 2), (3,))
    assert replace(STACKED, predicted=(0, 1)).carried == (2, 3)
    assert Spec.from_dict(json.loads(json.dumps(STACKED.to_dict()))) == STACKED
    before = {name: value for name, value in unit_spec(2).to_dict().items() if name not in ("carried", "sources")}
    assert Spec.from_dict(before) == unit_spec(2)


@pytest.mark.parametrize("sources", [(0,), (0, 4, 5), (0, -1, 2)], ids=["too few", "no such action", "negative"])
def test_a_source_that_is_none_is_refused(sources: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected one for each, from 0 to 4"):
        replace(STACKED, sources=sources)
