"""Policies made worse on purpose: how much worse, and that nothing else about them changes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mbrl.core import Batch, Spec, generator, seeded
from mbrl.serving.export import export_policy, policy_from
from mbrl.testing import check_policy
from policies import Perturbed
from policies.actors import Categorical, Deterministic, TanhGaussian

Problem = Callable[[bool], tuple[Spec, Batch]]


def inner(spec: Spec) -> torch.nn.Module:
    with seeded(0, "test"):
        return Categorical(spec, (8,)) if spec.discrete else Deterministic(spec, (8,))


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
@pytest.mark.parametrize(("flip", "noise"), [(True, 0.0), (False, 0.5), (True, 1.0)])
def test_contract(flip: bool, noise: float, discrete: bool, problem: Problem) -> None:
    check_policy(Perturbed.of(inner(problem(discrete)[0]), flip, noise))


def test_mirrored_actions_are_as_far_from_the_other_bound(problem: Problem) -> None:
    spec, rows = problem(False)
    policy = inner(spec)
    assert torch.allclose(Perturbed.of(policy, flip=True).act(rows.obs, None), -policy.act(rows.obs, None))
    assert torch.allclose(Perturbed.of(policy).act(rows.obs, None), policy.act(rows.obs, None))
    spec, rows = problem(True)
    policy = inner(spec)
    assert torch.equal(Perturbed.of(policy, flip=True)(rows.obs), 1 - policy(rows.obs))


def test_the_smallest_observations_have_a_choice_as_well(problem: Problem) -> None:
    """A fraction so near to 1 that float64 has no other number for it."""
    spec, _ = problem(True)
    assert int(Perturbed.of(inner(spec), noise=1.0)(torch.tensor([[0.0, -1e-22]]))) in (0, 1)


@torch.no_grad()
def test_noise_takes_the_place_of_the_action_by_its_share(problem: Problem) -> None:
    """(1 - noise) a + noise u, u uniform in [-1, 1] and not told by the observation."""
    spec, rows = problem(False)
    policy = inner(spec)
    own, drowned = policy.act(rows.obs, None), Perturbed.of(policy, noise=1.0).act(rows.obs, None)
    half = Perturbed.of(policy, noise=0.5).act(rows.obs, None)
    assert torch.allclose(half, (own + drowned) / 2, atol=1e-6)
    sorted_, even = drowned.sort(0).values, torch.linspace(-1, 1, len(drowned)).unsqueeze(-1)
    assert float((sorted_ - even).abs().max()) < 0.08  # 2000 draws: Kolmogorov's 1 % point is 0.036 of a range of 2
    both = torch.cat([rows.obs, drowned], -1).T.corrcoef()
    assert float(both[:2, 2:].abs().max()) < 0.08
    assert abs(float(both[2, 3])) < 0.08
    spec, rows = problem(True)
    policy = inner(spec)
    changed = (Perturbed.of(policy, noise=0.5)(rows.obs) != policy(rows.obs)).float().mean()
    assert 0.2 < float(changed) < 0.3  # half of the rows get a choice of two at random


def test_samples_are_perturbed_like_the_mode(problem: Problem) -> None:
    spec, rows = problem(False)
    with seeded(0, "test"):
        policy = TanhGaussian(spec, (8,))
    flipped = Perturbed.of(policy, flip=True).act(rows.obs, generator(0, "noise"))
    assert torch.allclose(flipped, -policy.act(rows.obs, generator(0, "noise")))


def test_it_is_exported_like_any_other(problem: Problem, tmp_path: Path) -> None:
    spec, rows = problem(False)
    policy = Perturbed.of(inner(spec), flip=True, noise=0.7)
    export_policy(policy, tmp_path)
    assert torch.equal(policy_from(tmp_path / "policy.ckpt")(rows.obs), policy(rows.obs))


def test_what_cannot_be_is_refused(problem: Problem) -> None:
    spec = problem(False)[0]
    for noise in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"noise is .*, expected a share from 0 to 1"):
            Perturbed.of(inner(spec), noise=noise)
    with pytest.raises(ValueError, match=r"policies\.actors\.Nobody"):
        Perturbed(spec, {"class_path": "policies.actors.Nobody"})
