"""Networks say the same whether a gradient is wanted of them or not, which a CPU computes in different ways."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from dynamics_toys import unit_spec

from mbrl.core import Batch, Spec, generator
from mbrl.testing import check_learner
from policies import SAC, networks
from policies.actors import Gaussian, TanhGaussian
from policies.functional import stacked_linear
from policies.networks import Trunk

Problem = Callable[[bool], tuple[Spec, Batch]]


def test_channels_that_cannot_move_have_no_density(problem: Problem) -> None:
    """A policy and its entropy target are those of the channels that can, whatever stands beside them."""
    spec, rows = problem(False)
    dead = replace(
        spec,
        action_dim=4,
        action_low=(*spec.action_low, 0.5, -3.0),
        action_high=(*spec.action_high, 0.5, -3.0),
        action_mean=(*spec.action_mean, 0.5, -3.0),
        action_std=(*spec.action_std, 1.0, 1.0),
    )
    assert SAC(dead, hidden=(4,)).agent.entropy_target == SAC(spec, hidden=(4,)).agent.entropy_target == -2.0
    action = torch.cat([rows.action, torch.tensor([0.5, -3.0]).expand(len(rows.action), 2)], -1)
    for kind in TanhGaussian, Gaussian:
        plain, wide = kind(spec, (4,)), kind(dead, (4,))
        wide.network.hidden.load_state_dict(plain.network.hidden.state_dict())
        outputs = torch.tensor([0, 1, 4, 5] if kind is TanhGaussian else [0, 1])
        with torch.no_grad():
            wide.network.output.weight[outputs] = plain.network.output.weight
            wide.network.output.bias[outputs] = plain.network.output.bias
        torch.testing.assert_close(wide.log_prob(rows.obs, action), plain.log_prob(rows.obs, rows.action))
    check_learner(lambda spec: SAC(spec, hidden=(4,)), dead)  # as a GPU would have it recorded, too
    sampled, density = TanhGaussian(dead, (4,)).sample(rows.obs, generator(0, "x"))
    assert sampled[:, 2:].unique(dim=0).tolist() == [[0.5, -3.0]]
    assert density.shape == rows.reward.shape


@pytest.mark.parametrize("columns", [1, 6, 31, 32])
def test_stacked_layers_are_the_same_without_a_gradient(columns: int) -> None:
    x, weight, bias = torch.randn(3, 5, 4), torch.randn(3, 4, columns), torch.randn(3, 1, columns)
    with torch.no_grad():
        found = stacked_linear(x, weight, bias)
    torch.testing.assert_close(found, x @ weight + bias)


@pytest.mark.parametrize("shape", [(7,), (10, 7), (9, 7), (3, 5, 7), (0, 7)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_trunk_says_the_same_of_rows_in_parts(
    shape: tuple[int, ...], layer_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "CACHE_ROWS", 4)
    trunk, x = Trunk(7, (8, 8), 3, layer_norm), torch.randn(shape)
    before = x.clone()
    expected = trunk(x)
    with torch.no_grad():
        found = trunk(x)
    assert found.shape == (*shape[:-1], 3)
    torch.testing.assert_close(found, expected.detach())
    assert torch.equal(x, before)  # the activations are computed in place, what they read is not


def test_a_cpu_takes_a_part_of_the_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CACHE_ROWS", 4)
    trunk, seen = Trunk(7, (8,), 3), []
    trunk.hidden[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        trunk(torch.zeros(10, 7))
    trunk(torch.zeros(10, 7))
    assert seen == [4, 4, 2, 10]


def test_no_action_leaves_the_bounds_by_rounding() -> None:
    """Half a range of 1.2 about -0.8 is 0.40000004 in float32, which an environment with a bound of 0.4 refuses."""
    bounds = networks.Bounds(replace(unit_spec(), action_low=(-2.0,), action_high=(0.4,)))
    assert float(bounds.centre + bounds.half_range) > float(torch.tensor(0.4))
    reached = bounds.scale(torch.tensor([[-1.0], [0.0], [1.0]]))
    assert reached.flatten().tolist() == [-2.0, pytest.approx(-0.8), float(torch.tensor(0.4))]
