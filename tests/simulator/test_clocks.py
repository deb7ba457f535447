"""Hours and counters: they are found in the log, go on by themselves in every rollout, and are never learned."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import Known, Watched, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble
from mbrl.core import Batch, Spec, generator
from mbrl.data import exact
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.exact import CHANGES, Clock
from mbrl.data.history import windowed
from mbrl.data.problem import clocks_of
from mbrl.simulator.card import report_card
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.structure import without
from mbrl.training.bootstrap import Runs
from mbrl.training.lookahead import Lookahead

HOURS = 24
# a level, the hour, and a number of steps; member 0 of Known says that the level rises by 1
TIMED = replace(
    unit_spec(3),
    obs_low=(-1000.0, 0.0, 0.0),
    obs_high=(1000.0, 23.0, 500.0),
    predicted=(),
    clocks=(1, 2),
    clock_steps=(1.0, 2.0),
    clock_turns=(22.5, 0.0),
    clock_periods=(24.0, 0.0),
)


def column(now: Any, after: Any) -> dict[int, Clock]:
    rows = torch.tensor(now)[:, None]
    return exact.clocks(rows, torch.zeros_like(rows), torch.tensor(after)[:, None], [0])


def timed(rows: int = 200, episodes: int = 2) -> TransitionDataset:
    """A random level, the share of the day that has gone, and a number of steps that begins at 0 in every episode."""
    step = torch.arange(rows).repeat(episodes)
    start = torch.arange(episodes).repeat_interleave(rows) * 7
    level = torch.randn(rows * episodes + 1, generator=generator(0, "test"))

    def seen(at: int) -> Tensor:
        hour = (start + step + at) % HOURS
        return torch.stack([level[at : at + len(step)], hour / HOURS, (step + at).float()], 1)

    episode = torch.arange(episodes).repeat_interleave(rows)
    return TransitionDataset.create(
        "toy/timed-v0",
        obs=seen(0),
        action=torch.rand(rows * episodes, 1, generator=generator(1, "test")) * 2 - 1,
        next_obs=seen(1),
        reward=torch.zeros(rows * episodes),
        terminated=torch.zeros(rows * episodes, dtype=torch.bool),
        truncated=step == rows - 1,
        episode=episode,
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


def test_what_goes_on_by_the_same_step_in_every_row_is_found() -> None:
    hour = torch.arange(300.0) % HOURS
    after = (hour + 1) % HOURS
    (clock,) = column(hour.tolist(), after.tolist()).values()
    assert clock == Clock(step=1.0, turn=22.5, period=24.0)
    (down,) = column(after.tolist(), hour.tolist()).values()
    assert down == Clock(step=-1.0, turn=0.5, period=-24.0)
    (uneven,) = column((torch.arange(300.0) * 7 % 24).tolist(), (torch.arange(1.0, 301.0) * 7 % 24).tolist()).values()
    assert uneven == Clock(step=7.0, turn=16.5, period=24.0)  # from 17 on it passes 24
    (counter,) = column(torch.arange(300.0).tolist(), torch.arange(1.0, 301.0).tolist()).values()
    assert counter == Clock(step=1.0, turn=0.0, period=0.0)
    once = torch.arange(150.0) % 140
    (seldom,) = column(once.tolist(), ((once + 1) % 140).tolist()).values()
    assert seldom == Clock(step=1.0, turn=138.5, period=140.0)
    (rounded,) = column((hour / HOURS).tolist(), (after / HOURS).tolist()).values()
    assert rounded == pytest.approx((1 / HOURS, 22.5 / HOURS, 1.0), abs=1e-6)


def test_what_does_not_is_left_to_a_model() -> None:
    hour = torch.arange(300.0) % HOURS
    after = (hour + 1) % HOURS
    for row, value in ((50, 9.0), (71, 22.0), (80, float("nan")), (80, float("inf"))):
        odd = after.clone()
        odd[row] = value
        assert column(hour.tolist(), odd.tolist()) == {}
    short = slice(0, CHANGES - 1)
    assert column(hour[short].tolist(), after[short].tolist()) == {}
    few = slice(0, 2 * HOURS + 60)
    assert column(hour[few].tolist(), after[few].tolist()) != {}
    reset = torch.cat([torch.arange(70.0), torch.arange(90.0)])  # whenever somebody pressed a button
    assert column(reset[:-1].tolist(), reset[1:].tolist()) == {}
    still = torch.full((300,), 5.0)
    assert column(still.tolist(), still.tolist()) == {}
    walk = torch.randn(301, generator=generator(0, "test"))
    assert column(walk[:-1].tolist(), walk[1:].tolist()) == {}
    early = torch.where(hour == 12, 0.0, after)  # at noon back to 0, but from 12 only: 13 and later go on
    begun = torch.cat([hour, hour])
    assert column(begun.tolist(), torch.cat([early, early]).tolist()) == {}


def test_what_the_logger_did_is_no_clock() -> None:
    stock = 15 - torch.arange(300.0) % 10  # one is sold a day, and ten are ordered at 6
    order = (stock == 6).float()[:, None]
    after = stock - 1 + 10 * order[:, 0]
    assert exact.clocks(stock[:, None], order, after[:, None], [0]) == {}
    anyhow = torch.rand(300, 1, generator=generator(0, "test"))
    assert list(exact.clocks(stock[:, None], anyhow, after[:, None], [0])) == [0]
    level = torch.cat([torch.arange(30.0, 20.0, -0.5), torch.tensor([20.0, 19.5] * 100)])  # a valve at 20
    fell = torch.where(level > 19.5, level - 0.5, level + 0.5)
    assert column(level.tolist(), fell.tolist()) == {}


def test_a_turn_is_not_before_the_last_tick() -> None:
    night = torch.cat([(torch.arange(12.0) + 23) % HOURS] * 30)  # from 23 to 10: nobody saw the evening
    (clock,) = column(night.tolist(), ((night + 1) % HOURS).tolist()).values()
    assert clock == Clock(step=1.0, turn=22.5, period=24.0)


def test_steps_are_known_better_than_they_are_rounded() -> None:
    elapsed = torch.arange(100_000.0, dtype=torch.float64) * 0.1
    (clock,) = column(elapsed.float().tolist(), (elapsed + 0.1).float().tolist()).values()
    assert clock.step == pytest.approx(0.1, abs=1e-7)
    for count in range(7, 20):
        angle = (torch.arange(400.0, dtype=torch.float64) * 2 * torch.pi / count % (2 * torch.pi)).float()
        (clock,) = column(angle[:-1].tolist(), angle[1:].tolist()).values()
        assert clock.step == pytest.approx(2 * torch.pi / count, abs=1e-5)


def test_a_clock_goes_on_where_a_part_of_the_log_has_not_been() -> None:
    morning = replace(TIMED, obs_low=(-1000.0, 6.0, 0.0), obs_high=(1000.0, 12.0, 20.0))
    world = Simulator(Known(morning), morning)
    obs, rng = torch.tensor([[0.0, 12.0, 20.0]]), generator(0, "test")
    for hour in (13, 14, 15):
        obs = world.step(obs, torch.zeros(1, 1), rng).next_obs
        assert obs[0, 1:].tolist() == [hour, 2 * hour - 4]


def test_a_log_says_which_they_are_and_a_model_has_none_of_them() -> None:
    data = timed()
    spec = data.spec(torch.tensor([0]))
    assert (spec.clocks, spec.predicted) == ((1, 2), (0,))
    assert spec.clock_steps == pytest.approx((1 / 24, 1.0), abs=1e-6)
    assert spec.clock_periods == pytest.approx((1.0, 0.0), abs=1e-6)
    past = windowed(data, 2).spec(torch.tensor([0]))
    assert (past.clocks, past.predicted, past.obs_dim) == ((1, 2), (0,), 7)
    assert replace(data, exogenous=(1,)).spec(torch.tensor([0])).clocks == (2,)
    only = replace(data, obs=data.obs[:, 1:], next_obs=data.next_obs[:, 1:], exogenous=())
    assert (clocks_of(only, ()).keys(), clocks_of(only, (0,)).keys()) == ({0}, set())  # a model is left a channel
    model = ProbabilisticEnsemble(spec, members=2, elites=1, layers=1, hidden=8)
    assert model.gaussian.mlp.weights[-1].shape[-1] == 2  # mean and log-variance of the level


def test_a_simulator_lets_them_go_on_for_rows_and_for_particles() -> None:
    world = Simulator(Known(TIMED, 1), TIMED)
    obs, action, rng = torch.tensor([[5.0, 22.0, 3.0], [5.0, 23.0, 9.0]]), torch.zeros(2, 1), generator(0, "test")
    after = torch.tensor([[6.0, 23.0, 5.0], [6.0, 0.0, 11.0]])
    assert torch.equal(world.step(obs, action, rng).next_obs, after)
    particles, _, _ = world.propagate(obs.expand(1, 2, 3), action, rng)
    assert torch.equal(particles[0], after)
    for _ in range(300):
        obs = world.step(obs, action, rng).next_obs
    assert obs[:, 1].tolist() == [(22 + 300) % 24, (23 + 300) % 24]
    assert obs[:, 2].tolist() == [603.0, 609.0]
    bounded = replace(TIMED, bound_low=(None,) * 4, bound_high=(None, None, 550.0, None))
    assert Simulator(Known(bounded, 1), bounded).step(obs, action, rng).next_obs[:, 2].tolist() == [550.0, 550.0]


def test_after_many_days_it_is_still_the_hour_that_it_would_be() -> None:
    data = timed()
    spec = data.spec(torch.tensor([0, 1]))
    world = Simulator(Known(spec, 1), spec, margin=10.0)
    obs, rng = data.obs[:1], generator(0, "test")
    for _ in range(1000):
        obs = world.step(obs, torch.zeros(1, 1), rng).next_obs
    assert float(obs[0, 1]) == pytest.approx(1000 % 24 / 24, abs=1e-4)


def test_the_card_says_what_goes_on_and_where_a_log_has_it_otherwise() -> None:
    data = timed()
    spec = data.spec(torch.tensor([0]))
    world = Simulator(Known(spec, 1), spec)
    world.calibrate(data.batch(data.rows(torch.tensor([0]))))
    odd = data.next_obs.clone()
    odd[250, 1] += 0.25  # daylight saving
    odd = replace(data, next_obs=odd)

    def card(log: TransitionDataset) -> dict[str, Any]:
        first, second = torch.tensor([0]), torch.tensor([1])
        return report_card(world, log, second, calibrated_on=first, seed=0, about={}, horizon=5).numbers

    hour, steps = card(data)["clocks"]
    assert hour == {
        "channel": "observation 1",
        "step": pytest.approx(1 / 24, abs=1e-6),
        "period": pytest.approx(1.0, abs=1e-6),
        "agrees": 1,
    }
    assert (steps["period"], steps["agrees"]) == (0, 1)
    numbers = card(odd)
    assert [row["agrees"] for row in numbers["clocks"]] == [pytest.approx(1 - 1 / 200), 1]
    (told,) = [reason["text"] for reason in numbers["verdict"]["reasons"] if "go on" in reason["text"]]
    assert told.startswith("it lets observation 1 go on by 0.0416667 a step, as its own log does: so do ")


def test_the_audit_notes_them() -> None:
    notes = [finding for finding in audit(timed(2000)).findings if finding.kind == "clock"]
    assert [(note.severity, note.channels) for note in notes] == [
        ("note", ("observation 1",)),
        ("note", ("observation 2",)),
    ]
    assert notes[0].found == "observation 1 changes by 0.0416667 in every row, and back by 1 beyond 0.9375"
    assert notes[1].found == "observation 2 changes by 1 in every row"


def test_a_model_that_is_followed_is_told_the_time() -> None:
    obs = torch.tensor([[0.0, 22.0, 0.0], [0.0, 23.0, 2.0], [0.0, 0.0, 4.0], [0.0, 1.0, 6.0]])
    rows = Batch(obs[None, :3], torch.zeros(1, 3, 1), torch.zeros(1, 3), obs[None, 1:], torch.zeros(1, 3).bool())
    model = Watched(TIMED, 1)
    Lookahead(TIMED, 3).squares(model, Runs(rows, torch.ones(1, 3).bool()))
    assert model.seen == [[0, 22, 0], [1, 23, 2], [2, 0, 4]]


def test_a_function_that_computes_one_has_the_say_and_a_channel_has_one_origin() -> None:
    left = without(TIMED, (2,))
    assert (left.clocks, left.clock_steps, left.predicted) == ((1,), (1.0,), (0,))
    alone = without(TIMED, (0,))  # a model has to have a channel, and gets a clock
    assert (alone.clocks, alone.clock_periods, alone.predicted) == ((1,), (24.0,), (2,))
    assert replace(TIMED, exogenous=(1,)).clocks == (2,)
    assert Spec.from_dict(json.loads(json.dumps(TIMED.to_dict()))) == TIMED
    before = {name: value for name, value in unit_spec(2).to_dict().items() if "clock" not in name}
    assert Spec.from_dict(before) == unit_spec(2)
    with pytest.raises(ValueError, match=r"clock_turns is \[1\.0\], expected one for each of \[1, 2\]"):
        replace(TIMED, clock_turns=(1.0,))
