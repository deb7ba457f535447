"""Settings that are more than numbers."""

import inspect

import pytest
import yaml

from mbrl.__main__ import config_file
from mbrl.settings import Data, Fit, Rehearsal
from mbrl.training.dynamics import fit_dynamics


def test_a_rollout_is_as_long_as_it_is_set_or_as_it_is_trusted() -> None:
    assert Rehearsal(horizon=5).steps(31) == 5
    assert Rehearsal(horizon=None).steps(31) == 31
    assert Rehearsal(horizon=None).steps(0) == 1


def test_updates_follow_the_rows_between_a_least_and_a_most() -> None:
    rehearsal = Rehearsal(updates=60_000, passes=200, batch_size=256)
    assert rehearsal.settled(70_000, 0)["updates"] == 54_688  # 200 x 70,000 / 256, rounded up
    assert rehearsal.settled(140_000, 0)["updates"] == 60_000
    assert rehearsal.settled(300, 0)["updates"] == 10_000
    assert Rehearsal(updates=500, passes=200).settled(300, 0)["updates"] == 500
    assert Rehearsal(updates=500).settled(10**6, 0)["updates"] == 500
    assert "passes" not in rehearsal.settled(300, 0)


def test_a_rollout_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rehearsal\.horizon is 0, expected at least 1"):
        Rehearsal(horizon=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": -1.0}, "penalty is -1.0, expected 0 or more"),
        ({"halt": 0.0}, "halt is 0.0, expected a number above 0"),
        ({"halt": float("nan")}, "halt is nan"),
        ({"halt": 1.0, "halt_cost": -1.0}, "halt_cost is -1.0, expected 0 or more"),
        ({"halt_cost": 1.0}, "halt_cost is 1.0, expected null, or a rehearsal.halt with it, such as 2"),
        ({"passes": 0.0}, "passes is 0.0, expected a number above 0"),
        ({"passes": float("inf")}, "passes is inf"),
        ({"best": 0.0}, "best is 0.0, expected a share above 0 and at most 1"),
        ({"best": 10.0}, "best is 10.0, expected a share"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"rehearsal\.{message}"):
        Rehearsal(**settings)


def test_a_learner_that_imagines_nothing_can_take_the_place_of_that_of_the_default_recipe() -> None:
    """`mbrl run --learner policies.IQL` reads mopo.yaml, and nobody has typed what that learner cannot use."""
    recipe = yaml.safe_load(config_file("mopo.yaml").read_text())
    Rehearsal(**recipe["rehearsal"]).check("IQL", imagines=False, uncertain=True)
    assert recipe["simulator"]["uncertainty"]  # so that MOPO itself has its penalty


@pytest.mark.parametrize(
    ("settings", "imagines", "uncertain", "message"),
    [
        ({"penalty": 2.0}, False, True, "penalty is 2.0, and BC never imagines: leave it out"),
        ({"halt": 1.0}, False, True, "halt is 1.0, and BC never imagines"),
        ({"horizon": 7}, False, True, "horizon is 7, and BC never imagines"),
        ({"horizon": None}, False, True, "horizon is null, and BC never imagines"),
        ({"penalty": 2.0, "real_ratio": 1.0}, True, True, "penalty is 2.0, and rehearsal.real_ratio is 1"),
        ({"horizon": 7, "real_ratio": 1.0}, True, True, "horizon is 7, and rehearsal.real_ratio is 1"),
        (
            {"penalty": 2.0},
            True,
            False,
            "penalty is 2.0 and simulator.uncertainty is null: name one, such as"
            " dynamics.uncertainty.max_aleatoric, or set rehearsal.penalty to null",
        ),
        ({"halt": 1.0}, True, False, "halt is 1.0 and simulator.uncertainty is null: name one"),
    ],
)
def test_what_is_asked_of_rollouts_that_are_not_made_or_not_measured_is_refused(
    settings: dict[str, float | None], imagines: bool, uncertain: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"rehearsal\.{message}"):
        Rehearsal(**settings).check("BC", imagines, uncertain)


def test_what_asks_for_nothing_is_welcome() -> None:
    for settings in ({}, {"penalty": 0.0}, {"horizon": 5}, {"real_ratio": 1.0}):
        for imagines in (True, False):
            Rehearsal(**settings).check("BC", imagines, uncertain=False)
    Rehearsal(penalty=1.0, halt=1.0, halt_cost=1.0, horizon=None).check("SAC", imagines=True, uncertain=True)


@pytest.mark.parametrize("history", [0, -1])
def test_a_window_without_an_observation_is_refused(history: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.history is {history}, expected at least 1"):
        Data("toy/log-v0", history=history)


def test_the_second_simulator_may_look_further_ahead() -> None:
    fit = Fit(multistep=2, judge_multistep=10, lr=3e-4)
    assert [fit.arguments(judging)["multistep"] for judging in (False, True)] == [2, 10]
    assert Fit(multistep=2).arguments(True)["multistep"] == 2
    assert fit.arguments(True) | {"multistep": 2} == fit.arguments(False)
    assert set(fit.arguments(True)) <= set(inspect.signature(fit_dynamics).parameters)
