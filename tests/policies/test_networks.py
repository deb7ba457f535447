"""Networks say the same whether a gradient is wanted of them or not, which a CPU computes in different ways."""

import pytest
import torch

from policies import networks
from policies.functional import stacked_linear
from policies.networks import Trunk


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
