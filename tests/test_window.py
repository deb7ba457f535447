"""How a window begins and goes on, and a policy that remembers."""

from dataclasses import replace

import pytest
import torch
from registry_toys import Recall, remembering_spec

import policies
from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from mbrl.core import Spec
from mbrl.testing import check_dynamics, check_learner
from mbrl.window import Remembering, Shortened, Window
from policies.actors import Deterministic

WIDE = ("obs_mean", "obs_std", "obs_low", "obs_high", "delta_mean", "delta_std")  # one value a channel of obs


def test_a_window_begins_and_shifts_newest_first() -> None:
    window = Window(history=3, frame=2, neutral=(0.5,))
    begun = window.begin(torch.tensor([[1.0, 2], [3, 4]]))
    assert begun.tolist() == [[1, 2, 1, 2, 1, 2, 0.5, 0.5], [3, 4, 3, 4, 3, 4, 0.5, 0.5]]
    once = window.shift(begun, torch.tensor([[7.0], [8]]), torch.tensor([[10.0, 20], [30, 40]]))
    assert once.tolist() == [[10, 20, 1, 2, 1, 2, 7, 0.5], [30, 40, 3, 4, 3, 4, 8, 0.5]]
    twice = window.shift(once, torch.tensor([[9.0], [9]]), torch.zeros(2, 2))
    assert twice[0].tolist() == [0, 0, 10, 20, 1, 2, 9, 7]
    assert begun.shape[-1] == window.width == 8


def test_a_window_has_any_leading_axes() -> None:
    window = Window(history=2, frame=1, neutral=(0.0, 0.0))
    begun = window.begin(torch.arange(6.0).view(2, 3, 1))
    assert window.shift(begun, torch.ones(2, 3, 2), torch.zeros(2, 3, 1))[1, 2].tolist() == [0, 5, 1, 1]


def test_a_history_of_one_is_the_observation() -> None:
    window, obs = Window(history=1, frame=2, neutral=(0.0,)), torch.ones(3, 2)
    assert torch.equal(window.begin(obs), obs)
    assert torch.equal(window.shift(torch.zeros(3, 2), torch.zeros(3, 1), obs), obs)


@pytest.mark.parametrize(
    ("discrete", "low", "high", "neutral"),
    [
        (False, [-1.0, 2.0, -5.0], [1.0, 3.0, -4.0], (0.0, 2.0, -4.0)),
        (True, [0.0, 0.0], [1.0, 1.0], (0.0, 0.0)),
    ],
)
def test_the_neutral_action_is_the_one_next_to_zero(discrete: bool, low: list, high: list, neutral: tuple) -> None:
    assert Window.made(2, 1, discrete, low, high).neutral == neutral


def test_a_spec_says_what_its_window_is_made_of() -> None:
    spec = remembering_spec()
    assert (spec.obs_dim, spec.frame_dim, spec.history) == (8, 2, 3)
    assert Window.of(spec) == Window(3, 2, (0.0,))
    assert Spec.from_dict(spec.to_dict()) == spec
    for history in (0, 2, 9):
        with pytest.raises(ValueError, match=rf"history is {history} with observations \[8\] and actions \[1\]"):
            replace(spec, history=history)


@pytest.mark.parametrize("discrete", [False, True])
def test_models_and_learners_keep_their_contracts_on_windows(discrete: bool) -> None:
    spec = remembering_spec(discrete)
    for model in (ProbabilisticEnsemble, DeterministicEnsemble):
        check_dynamics(model(spec, members=3, elites=2, hidden=8, layers=1), spec)
    check_learner(lambda the_spec: policies.SAC(the_spec, hidden=[8]), spec)


def test_a_policy_that_looks_back_less_reads_the_newest_part_of_a_window() -> None:
    long = Window(history=3, frame=2, neutral=(0.5,)).begin(torch.tensor([1.0, 2]))
    for taken, seen in (7.0, [10.0, 20.0]), (9.0, [30.0, 40.0]):
        long = Window(3, 2, (0.5,)).shift(long, torch.tensor([taken]), torch.tensor(seen))
    assert long.tolist() == [30, 40, 10, 20, 1, 2, 9, 7]
    spec = replace(
        remembering_spec(), history=1, obs_dim=2, **{k: v[:2] for k, v in vars(remembering_spec()).items() if k in WIDE}
    )
    for history, expected in (1, [30, 40]), (2, [30, 40, 10, 20, 9]), (3, long.tolist()):
        own = Shortened(Deterministic(spec, (4,)), history).spec if history > 1 else spec
        policy = Deterministic(own, (4,))
        shortened = Shortened(policy, 3)
        assert shortened.newest(long).tolist() == expected
        assert (shortened.spec.history, shortened.spec.obs_dim, shortened.spec.frame_dim) == (3, 8, 2)
        assert torch.equal(
            shortened.act(long[None], None), policy.act(torch.tensor([expected], dtype=torch.float), None)
        )
    with pytest.raises(ValueError, match="history is 2, expected at least 3"):
        Shortened(policy, 2)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_remembering_policy_sees_what_a_shifted_window_holds(discrete: bool) -> None:
    spec = remembering_spec(discrete)
    policy, window = Recall(spec), Window.of(spec)
    remembering, rng = Remembering(policy), torch.Generator().manual_seed(0)
    observed = torch.randn(6, 4, 2, generator=rng)
    past = torch.full((4, spec.obs_dim - 2), torch.nan)  # not read where an episode begins
    expected = window.begin(observed[0])
    for step, obs in enumerate(observed):
        began = torch.full((4,), step == 0)
        if step == 3:
            began[1], expected[1] = True, window.begin(obs[1])
        answer = remembering(obs, past, began)
        action = policy.act(expected, None)
        assert torch.equal(answer["action"], policy(expected))
        past = answer["past"]
        if step < 5:
            expected = window.shift(expected, action, observed[step + 1])
            assert torch.equal(torch.cat([observed[step + 1], past], -1), expected)
