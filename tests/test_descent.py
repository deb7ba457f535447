"""Steps, gradients and slow copies, of one learner and mapped over several."""

import pytest
import torch
from torch.func import vmap

from mbrl.core import descend, leaf, polyak_, slope
from mbrl.descent import mapped


def test_polyak_moves_by_the_rate() -> None:
    target, source = [torch.zeros(2), torch.ones(1)], [torch.ones(2), torch.full((1,), 3.0)]
    polyak_(target, source, 0.25)
    assert target[0].tolist() == [0.25, 0.25]
    assert target[1].tolist() == [1.5]


def test_a_step_is_down_the_gradient_of_this_loss_alone() -> None:
    weight = torch.tensor([3.0, 1.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    weight.grad = torch.full((2,), 100.0)  # of another loss
    descend(optimizer, (weight**2).sum())
    assert weight.tolist() == [0.0, 0.0]  # w - 0.5 * 2 w


def test_a_slope_can_be_differentiated_further() -> None:
    weight, x = torch.tensor(2.0, requires_grad=True), leaf(torch.tensor([1.0, 3.0]))
    found = slope((weight * x**3).sum(), x)  # 3 w x^2
    assert found.tolist() == [6.0, 54.0]
    found.sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == 30.0  # 3 (1 + 9)


def test_mapped_over_members_each_has_a_step_a_slope_and_a_slow_copy_of_its_own() -> None:
    weight, slow = torch.tensor([2.0, 5.0], requires_grad=True), torch.zeros(2)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def update(own: torch.Tensor, kept: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        at = leaf(x)
        found = slope(own * at**2, at)  # 2 w x
        descend(optimizer, 0.5 * found**2)  # whose gradient is 4 w x^2
        polyak_([kept], [own], 0.5)
        return found.detach()

    with mapped():
        found = vmap(update)(weight, slow, torch.tensor([1.0, 0.5]))
    assert found.tolist() == [4.0, 5.0]
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0 - 0.1 * 8.0, 5.0 - 0.1 * 5.0]))
    torch.testing.assert_close(slow, torch.tensor([0.6, 2.25]))


def test_what_is_mapped_is_not_called_elsewhere() -> None:
    with mapped(), pytest.raises(RuntimeError, match="mapped over a population, and was called outside of one"):
        leaf(torch.ones(()))
