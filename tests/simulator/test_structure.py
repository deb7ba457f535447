"""Known structure: computed channels, where they come from, what bounds them, and every way to get it wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamics_toys import Known, unit_spec
from torch import Tensor
from weather_world import Driven, Rest, driven

from dynamics import ProbabilisticEnsemble
from mbrl import files
from mbrl.__main__ import config_file, main
from mbrl.core import Batch, Spec, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.serving import export
from mbrl.settings import World
from mbrl.simulator import stored
from mbrl.simulator.card import report_card
from mbrl.simulator.envs import SimulatorEnv
from mbrl.simulator.replay import Replay
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.structure import channel_numbers, without
from mbrl.testing import no_host_reads

SPEC = replace(unit_spec(2), predicted=(1,))  # a position, computed, and a speed


def integrated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A position, 0.1 s of the new speed further on."""
    del action
    return obs[..., :1] + 0.1 * next_obs[..., 1:]


def distance(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """How far the level (channel 1) is above the weather (channel 0)."""
    del obs, action
    return next_obs[..., 1:2] - next_obs[..., :1]


def raised(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return 5 + distance(obs, action, next_obs)


def root(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    del action, next_obs
    return obs[..., :1].sqrt()


def rng() -> torch.Generator:
    return generator(0, "test")


def moving(spec: Spec = SPEC, structure: Any = integrated, **arguments: Any) -> Simulator:
    """The speed rises by 1 at every step, whoever is asked."""
    return Simulator(Known(spec, 1), spec, structure=structure, computed=(0,), **arguments)


def above(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    del obs, action
    return next_obs[..., 0] > 1


OBS, STILL = torch.tensor([[0.0, 2.0], [1.0, -3.0]]), torch.zeros(2, 1)


def test_a_position_is_the_integral_of_the_predicted_speed() -> None:
    step = moving(termination=above).step(OBS, STILL, rng())
    torch.testing.assert_close(step.next_obs, torch.tensor([[0.3, 3.0], [0.8, -2.0]]))
    assert step.terminated.tolist() == [False, False]
    later = moving(termination=above).step(step.next_obs + torch.tensor([0.7, 0.0]), STILL, rng())
    assert later.terminated.tolist() == [True, True]  # the rule reads what was computed
    particles = moving().propagate(OBS.expand(1, 2, 2), STILL, rng())
    assert torch.equal(particles[0][0], step.next_obs)
    batch = imagine(Rest(SPEC), moving(), OBS, 5, 0.0, rng())
    torch.testing.assert_close(batch.next_obs[..., 0], batch.obs[..., 0] + 0.1 * batch.next_obs[..., 1])
    with no_host_reads():
        moving().step(OBS, STILL, rng())


def test_what_is_computed_and_predicted_stays_within_hard_bounds() -> None:
    bounded = replace(SPEC, bound_low=(None, -2.5, None), bound_high=(0.25, None, 0.5))
    world = moving(bounded)
    step = world.step(OBS, STILL, rng())
    torch.testing.assert_close(step.next_obs, torch.tensor([[0.25, 3.0], [0.25, -2.0]]))
    assert step.reward.tolist() == [0.0, 0.5]
    assert world.step(OBS - 3, STILL, rng()).next_obs[1].tolist() == [-2.25, -2.5]
    assert world.low.tolist() == [-1.2e6, -2.5, -1.2e6]
    wide = replace(unit_spec(1, low=0.0, high=10.0), bound_low=(-0.5, None), bound_high=(99.0, None))
    assert (Simulator(Known(wide, 1), wide).low[0], Simulator(Known(wide, 1), wide).high[0]) == (-0.5, 11.0)


def above_weather(lengths: tuple[int, ...] = (6, 4, 9)) -> TransitionDataset:
    """The driven world with a third channel, `distance` of the other two."""
    data = driven(lengths, std=0.1)
    obs, after = (torch.cat([x, x[:, 1:] - x[:, :1]], 1) for x in (data.obs, data.next_obs))
    columns = {**data.tensors, "obs": obs, "next_obs": after, "discrete": False}
    names = {"channels": ["weather", "level", "above"], "units": ["", "m", "m"], "exogenous": [0]}
    return TransitionDataset.create("toy/above-v0", **columns, action_low=[-1.0], action_high=[1.0], **names)  # type: ignore[arg-type]


class Wide(Driven):
    """`Driven`, which is not asked for the third channel either."""

    def predict(self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None) -> Any:
        known = super().predict(obs[..., :2], action, members)
        rest = obs[..., 2:].expand(*known.obs.shape[:-1], 1)
        wide, std = torch.cat([known.obs, rest], -1), torch.cat([known.obs_std, 0 * rest], -1)
        return known._replace(obs=wide, obs_std=std, scale=torch.ones(4))


class Stacked(Wide):
    """`Wide`, whose rows are windows with older observations and actions behind the newest."""

    def predict(self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None) -> Any:
        known = super().predict(obs[..., :3], action, members)
        rest = obs[..., 3:].expand(*known.obs.shape[:-1], -1)
        wide, std = torch.cat([known.obs, rest], -1), torch.cat([known.obs_std, 0 * rest], -1)
        return known._replace(obs=wide, obs_std=std, scale=torch.ones(obs.shape[-1] + 1))


def whole(structure: Any = distance, data: TransitionDataset | None = None, **arguments: Any) -> Simulator:
    data = data or above_weather()
    spec = without(data.spec(torch.arange(data.episodes)), (2,))
    return Simulator(Wide(spec, 0.1), spec, margin=9.0, structure=structure, computed=(2,), **arguments)


def test_the_function_sees_the_replayed_weather() -> None:
    data = above_weather()
    world, rows = whole().replaying(data), torch.tensor([0, 10])
    batch = imagine(Rest(world.spec), world, data.obs[rows], 4, 0.0, rng(), rows)
    assert torch.equal(batch.next_obs[:, 1, 0], data.next_obs[10:14, 0])
    assert torch.equal(batch.next_obs[..., 2], batch.next_obs[..., 1] - batch.next_obs[..., 0])
    assert (world.spec.predicted, world.spec.exogenous, world.targets.tolist()) == ((1,), (0,), [1, 3])  # type: ignore[union-attr]


def test_stored_and_served_it_is_the_same_structure(tmp_path: Path) -> None:
    data = above_weather()
    world = whole(starts=data.starts, replay=Replay.of(data))
    world.calibrate(data.batch())
    files.save(tmp_path / "world.ckpt", stored.state(world))
    loaded = stored.load(files.load(tmp_path / "world.ckpt"))
    assert loaded.filling.structure is distance
    steps = [w.step(data.starts, torch.zeros(3, 1), rng(), w.begin(data.starts, rng())) for w in (world, loaded)]
    assert torch.equal(steps[0].next_obs, steps[1].next_obs)
    export.export_simulator(world, tmp_path)
    program = torch.export.load(tmp_path / "simulator.pt2").module()
    found = program(data.starts, torch.zeros(3, 1), torch.full((3, 1), 0.5))
    for name in ("next_obs", "next_obs_low", "next_obs_high"):
        torch.testing.assert_close(found[name][:, 2], found["next_obs"][:, 1] - 0.5)
        assert found[name][:, 0].eq(0.5).all()
    assert (found["next_obs_low"][:, 1] < found["next_obs"][:, 1]).all()
    with pytest.raises(ValueError, match="does not lead to it"):
        stored.state(whole(lambda obs, action, next_obs: obs[..., :1]))


def test_the_card_says_what_is_computed_and_how_well() -> None:
    data, sides = above_weather((25,) * 20), (torch.arange(10), torch.arange(10, 20))
    for structure, off in (distance, 0.0), (raised, 5.0):
        world = whole(structure, data)
        world.calibrate(data.batch(data.rows(sides[0])))
        numbers = report_card(world, data, sides[1], calibrated_on=sides[0], seed=0, about={}, horizon=5).numbers
        assert numbers["channels"] == ["level", "reward"]
        assert sorted(numbers["open_loop"]["channels"]) == ["above", "level", "reward"]  # a wrong one goes astray
        if off:
            assert (numbers["trusted_horizon"]["steps"], numbers["trusted_horizon"]["weakest"]) == (0, "above")
        (row,) = numbers["computed"]
        assert (row["channel"], row["unit"], row["agrees"]) == ("above", "m", not off)
        assert row["mean_absolute_error"] == pytest.approx(off, abs=1e-5)
        reasons = [reason["text"] for reason in numbers["verdict"]["reasons"] if not reason["good"]]
        told = "its known structure is 5 off the log in above on average"
        assert any(text.startswith(told) and "look at simulator.structure" in text for text in reasons) is bool(off)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (lambda obs, action, next_obs: obs, r"returned shape \[1, 2\] for obs \[1, 2\], expected a tensor \[1, 1\]"),
        (
            lambda obs, action, next_obs: obs[..., 0],
            r"returned shape \[1\] for obs \[1, 2\], expected a tensor \[1, 1\]",
        ),
        (lambda obs, action, next_obs: 0.0, r"returned float for obs \[1, 2\], expected a tensor \[1, 1\]"),
    ],
)
def test_a_function_of_another_shape_is_refused_at_once(structure: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moving(structure=structure)


def test_a_function_that_gives_nan_is_refused_with_the_row() -> None:
    rows = torch.tensor([[4.0, 0.0], [-1.0, 0.5], [-9.0, 0.0]])
    held = Batch(rows, torch.zeros(3, 1), rows[:, 0], rows, torch.zeros(3, dtype=torch.bool))
    message = r"test_structure\.root returned nan for channel 0 in 2 of 3 transitions, the first from obs"
    with pytest.raises(ValueError, match=message + r" \[-1\.0, 0\.5\] with action \[0\.0\]: expected finite numbers"):
        moving(structure=root).calibrate(held)


def rooted(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    del next_obs
    return obs[..., :1] + (0.5 - action).sqrt()


def test_nan_under_an_action_that_was_not_logged_is_found_as_well() -> None:
    rows = torch.rand(50, 2, generator=rng())
    held = Batch(rows, torch.zeros(50, 1), rows[:, 0], rows, torch.zeros(50, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"test_structure\.rooted returned nan for channel 0 in \d+ of 50 transitions"):
        moving(structure=rooted).calibrate(held)


def test_an_environment_never_shows_nan() -> None:
    world = moving(structure=rooted)
    env = SimulatorEnv(world, horizon=3)
    env.reset(seed=0, options={"obs": np.zeros(2, np.float32)})
    with pytest.raises(FloatingPointError, match="episode 0 came to nan in channel 0"):
        env.step(np.ones(1, np.float32))


def test_channels_of_two_origins_or_none_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"channels \[1\] are computed, and predicted, carried, clocks or exogenous as well"
    ):
        Simulator(Known(SPEC, 1), SPEC, structure=integrated, computed=(0, 1))
    with pytest.raises(ValueError, match=r"simulator\.computed is \[\]: give both"):
        Simulator(Known(SPEC, 1), SPEC, structure=integrated)
    with pytest.raises(ValueError, match=r"simulator\.structure is None and simulator\.computed is \[0\]: give both"):
        Simulator(Known(SPEC, 1), SPEC, computed=(0,))
    driven_spec = above_weather().spec(torch.arange(3))
    with pytest.raises(ValueError, match=r"channels \[0\] are both exogenous and computed.*remove it from the schema"):
        without(driven_spec, (0, 2))
    with pytest.raises(ValueError, match="names all 2 channels that are not exogenous, and none is left"):
        without(driven_spec, (1, 2))
    assert without(driven_spec, ()) == driven_spec


def test_channels_are_named_or_numbered() -> None:
    assert channel_numbers(["above", 0], ("weather", "level", "above")) == (2, 0)
    for named, message in (
        (
            ["abve"],
            "names 'abve', expected a channel of the observation, by name or from 0 to 2: weather, level, above",
        ),
        ([3], "names 3, expected a channel"),
        ([-1], "names -1, expected a channel"),
        ([2, "above"], "names 'above' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            channel_numbers(named, ("weather", "level", "above"))  # type: ignore[arg-type]


def test_the_settings_ask_for_both_or_neither() -> None:
    assert World(structure=integrated, computed=[0]).computed == [0]
    for given in {"structure": integrated}, {"computed": ["x"]}:
        with pytest.raises(ValueError, match=r"simulator\.computed is .*, expected channels if simulator\.structure"):
            World(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"simulator\.structure is builtins\.max, which does not take"):
        World(structure=max, computed=[0])
    with pytest.raises(ValueError, match=r"simulator\.structure is .*which does not take \(obs, action, next_obs\)"):
        World(structure=abs, computed=[0])


def test_a_model_of_the_rest_is_fitted_with_fewer_outputs() -> None:
    model = ProbabilisticEnsemble(without(above_weather().spec(torch.arange(3)), (2,)), 2, 2, hidden=4, layers=1)
    assert model.gaussian.mlp.weights[-1].shape == (2, 4, 2)  # mean and log-variance of the level


def test_with_a_history_it_reads_plain_observations() -> None:
    data = windowed(above_weather(), 3)
    spec = without(data.spec(torch.arange(3)), (2,))
    assert (spec.predicted, spec.exogenous, spec.frame_dim, spec.obs_dim) == ((1,), (0,), 3, 11)
    world = Simulator(Stacked(spec, 0.1), spec, margin=9.0, structure=distance, computed=(2,)).replaying(data)
    world.calibrate(data.batch())
    rows = torch.tensor([0, 10])
    batch = imagine(Rest(spec), world, data.obs[rows], 4, 0.0, rng(), rows)
    assert torch.equal(batch.next_obs[:, 1, 0], data.next_obs[10:14, 0])
    assert torch.equal(batch.next_obs[..., 2], batch.next_obs[..., 1] - batch.next_obs[..., 0])
    assert torch.equal(batch.next_obs[..., 3:9], batch.obs[..., :6])  # the older observations move on


def test_older_observations_of_a_window_have_the_bounds_of_the_newest() -> None:
    plain = above_weather()
    columns = {**plain.tensors, "discrete": False, "action_low": [-1.0], "action_high": [1.0], "exogenous": [0]}
    bounds = {"bound_low": [None, -99.0, None, -50.0], "bound_high": [None, 9.0, None, None]}
    data = windowed(TransitionDataset.create("toy/above-v0", **columns, **bounds), 2)  # type: ignore[arg-type]
    spec = without(data.spec(torch.arange(3)), (2,))
    assert spec.limits(spec.bound_high, 1e9) == [1e9, 9.0, 1e9, 1e9, 9.0, 1e9, 1e9, 1e9]
    world = Simulator(Stacked(spec), spec, margin=50.0, structure=distance, computed=(2,))
    assert (world.high[1], world.high[4], world.low[-1]) == (9.0, 9.0, -50.0)


def test_a_run_says_at_once_which_channel_is_not_there(
    tmp_path: Path, toy_log: Callable[..., dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "log.npz", **toy_log((5,) * 12))
    assert main(["import", str(tmp_path / "log.npz"), "--id", "toy/line-v0"]) == 0
    capsys.readouterr()
    arguments = ["run", "--config", str(config_file("debug.yaml")), "--data.id", "toy/line-v0"]
    arguments += ["--simulator.structure", f"{integrated.__module__}.integrated"]
    for computed, message in (
        (
            "[position]",
            "simulator.computed names 'position', expected a channel of the observation, by name or from 0 to 1",
        ),
        ("[0, 1]", "simulator.computed names all 2 channels that are not exogenous"),
        ("[]", "simulator.computed is [], expected channels if simulator.structure is given"),
    ):
        assert main([*arguments, "--simulator.computed", computed]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "home" / "runs").exists()
