import math

import pytest
import torch
from dynamics_toys import linear_world, spec_of

from dynamics import functional
from dynamics.parts import BatchedMLP, Normaliser
from mbrl.descent import mapped


def test_batched_linear_gives_each_member_its_own_weights() -> None:
    x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    weight = torch.tensor([[[1.0], [10.0]], [[2.0], [0.5]]])
    bias = torch.tensor([[[0.5]], [[-1.0]]])
    assert functional.batched_linear(x, weight, bias).tolist() == [[[21.5]], [[7.0]]]


@pytest.mark.parametrize(("members", "threads"), [(7, 2), (5, 4), (3, 8)])
def test_a_balanced_linear_layer_has_the_values_and_gradients_of_the_plain_one(
    members: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = ((members, 6, 4), (members, 4, 3), (members, 1, 3))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    slope = torch.randn(members, 6, 3, dtype=torch.float64)
    plain = torch.baddbmm(inputs[2], inputs[0], inputs[1])
    monkeypatch.setattr(functional, "WORTH_BALANCING", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    balanced = functional.batched_linear(*inputs)
    assert type(balanced.grad_fn).__name__ == "_BalancedLinearBackward"
    torch.testing.assert_close(balanced, plain)
    torch.testing.assert_close(torch.autograd.grad(balanced, inputs, slope), torch.autograd.grad(plain, inputs, slope))


@pytest.mark.parametrize("columns", [1, 22, 31, 32])
def test_a_layer_is_the_same_without_a_gradient(columns: int) -> None:
    x, weight, bias = torch.randn(3, 5, 4), torch.randn(3, 4, columns), torch.randn(3, 1, columns)
    plain = functional.batched_linear(x, weight.requires_grad_(), bias)
    with torch.no_grad():
        found = functional.batched_linear(x, weight, bias)
        shared = functional.batched_linear(functional.as_members(x[0], 3), weight, bias)
    torch.testing.assert_close(found, plain.detach())
    torch.testing.assert_close(shared[0], plain[0].detach())


def test_members_that_the_threads_divide_are_not_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "WORTH_BALANCING", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    weight = torch.ones(4, 2, 1, requires_grad=True)
    found = functional.batched_linear(torch.ones(4, 3, 2), weight, torch.zeros(4, 1, 1))
    assert type(found.grad_fn).__name__ == "BaddbmmBackward0"


def test_within_a_mapped_update_nothing_is_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A population of MOBILE steps the simulator inside its update; the balanced layer has no rule for that."""
    monkeypatch.setattr(functional, "WORTH_BALANCING", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, weight, bias = torch.randn(4, 3, 5, 2), torch.randn(3, 2, 6, requires_grad=True), torch.zeros(3, 1, 6)
    with mapped():
        found = torch.func.vmap(lambda rows: functional.batched_linear(rows, weight, bias))(x)
    torch.testing.assert_close(found, x @ weight)


def test_rows_that_all_members_see_get_the_sum_of_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "WORTH_BALANCING", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x = torch.ones(1, 2, requires_grad=True)
    weight = torch.tensor([[[1.0], [2.0]], [[10.0], [20.0]], [[100.0], [200.0]]])
    functional.batched_linear(functional.as_members(x, 3), weight, torch.zeros(3, 1, 1)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[111.0, 222.0]]


def test_batched_mlp_is_silu_between_linear_layers() -> None:
    weights = [torch.tensor([[[2.0]]]), torch.tensor([[[3.0]]])]
    biases = [torch.tensor([[[-1.0]]]), torch.tensor([[[0.25]]])]
    hidden = 1 / (1 + math.exp(-1.0))  # silu(2 * 1 - 1)
    found = functional.batched_mlp(torch.ones(1, 1, 1), weights, biases)
    assert found.item() == pytest.approx(3 * hidden + 0.25)


def test_batched_layer_norm_by_hand() -> None:
    # mean 2, variance 1, and 1e-5 under the root
    x = torch.tensor([[[1.0, 3.0]], [[-3.0, 5.0]]])
    scale, shift = torch.tensor([[[2.0, 1.0]], [[1.0, 1.0]]]), torch.tensor([[[0.5, 0.0]], [[0.0, -1.0]]])
    found = functional.batched_layer_norm(x, scale, shift)
    torch.testing.assert_close(found, torch.tensor([[[-1.5, 1.0]], [[-1.0, 0.0]]]), atol=1e-4, rtol=0)


def test_soft_clamp_is_the_identity_inside_and_the_bound_outside() -> None:
    low, high = torch.tensor(-10.0), torch.tensor(10.0)
    found = functional.soft_clamp(torch.tensor([-1000.0, 0.0, 1000.0]), low, high)
    torch.testing.assert_close(found, torch.tensor([-10.0, 0.0, 10.0]), atol=1e-3, rtol=0)


def test_soft_clamp_at_a_bound_is_worked_by_hand() -> None:
    # at the upper bound: high - log 2, so far above the lower bound that this stands
    found = functional.soft_clamp(torch.tensor(0.5), torch.tensor(-50.0), torch.tensor(0.5))
    assert found.item() == pytest.approx(0.5 - math.log(2), abs=1e-5)


def test_gaussian_nll_by_hand() -> None:
    mean, target = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[2.0, 1.0]]])
    log_var = torch.tensor([[[math.log(4.0), math.log(0.25)]]])
    # (4 / 4 + log 4 + 0 + log 1/4) / 2
    assert functional.gaussian_nll(mean, log_var, target).tolist() == pytest.approx([0.5])


def test_beta_weighs_a_row_by_its_predicted_variance_and_no_gradient_flows_there() -> None:
    mean = torch.tensor([[[1.0, 1.0]]], requires_grad=True)
    log_var = torch.full((1, 1, 2), math.log(4.0), requires_grad=True)
    loss = functional.gaussian_nll(mean, log_var, torch.zeros(1, 1, 2), torch.tensor([0.0, 0.5]))
    term = 1 / 4 + math.log(4)
    assert loss.item() == pytest.approx((term + 2 * term) / 2)  # the std is 2
    by_mean, by_log_var = torch.autograd.grad(loss.sum(), (mean, log_var))
    assert by_mean.flatten().tolist() == pytest.approx([2 / 4 / 2, 2 * 2 / 4 / 2])
    assert by_log_var.flatten().tolist() == pytest.approx([(1 - 1 / 4) / 2, 2 * (1 - 1 / 4) / 2])


def test_gaussian_nll_is_least_at_the_true_variance() -> None:
    error = torch.tensor([[[3.0]]])
    losses = [functional.gaussian_nll(error, torch.tensor([[[math.log(v)]]]), 0 * error).item() for v in (8, 9, 10)]
    assert losses[1] == min(losses)


def test_squared_error_keeps_members_apart() -> None:
    mean = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    assert functional.squared_error(mean, torch.zeros(2, 1, 2)).tolist() == [2.5, 0.0]


def test_binary_cross_entropy_by_hand() -> None:
    logit = torch.tensor([[0.0, math.log(3.0)]])
    found = functional.binary_cross_entropy(logit, torch.tensor([[True, False]]))
    assert found.tolist() == pytest.approx([(math.log(2) + math.log(4)) / 2])


def test_as_members_refuses_another_number_of_members() -> None:
    assert functional.as_members(torch.zeros(5, 2), 3).shape == (3, 5, 2)
    with pytest.raises(ValueError, match=r"shape \[4, 5, 2\], expected \[B, D\] or \[3, B, D\]"):
        functional.as_members(torch.zeros(4, 5, 2), 3)


def test_batched_mlp_equals_separate_networks() -> None:
    mlp = BatchedMLP(3, [4, 8, 2])
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for e in range(3):
        hidden = torch.nn.functional.silu(x[e] @ mlp.weights[0][e] + mlp.biases[0][e])
        torch.testing.assert_close(mlp(x)[e], hidden @ mlp.weights[1][e] + mlp.biases[1][e])
    torch.testing.assert_close(mlp(x[[2, 0]], torch.tensor([2, 0])), mlp(x)[[2, 0]])


def test_layer_norm_stands_before_each_silu_and_each_member_has_its_own() -> None:
    mlp = BatchedMLP(3, [4, 8, 6, 2], layer_norm=True)
    with torch.no_grad():
        for parameter in (*mlp.scales, *mlp.shifts):
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    assert [tuple(p.shape) for p in (*mlp.scales, *mlp.shifts)] == [(3, 1, 8), (3, 1, 6)] * 2
    inputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for e in range(3):
        x = inputs[e]
        for i in range(2):
            norm = torch.nn.LayerNorm((8, 6)[i])
            norm.weight.data, norm.bias.data = mlp.scales[i].data[e, 0], mlp.shifts[i].data[e, 0]
            x = torch.nn.functional.silu(norm(x @ mlp.weights[i][e] + mlp.biases[i][e]))
        torch.testing.assert_close(mlp(inputs)[e], x @ mlp.weights[2][e] + mlp.biases[2][e])
    torch.testing.assert_close(mlp(inputs[[2, 0]], torch.tensor([2, 0])), mlp(inputs)[[2, 0]])


def test_initial_weights_lie_within_two_stds() -> None:
    weight = BatchedMLP(50, [16, 40]).weights[0]
    assert weight.abs().max() <= 2 * 0.125
    assert weight.std().item() == pytest.approx(
        0.125 * 0.88, rel=0.05
    )  # a normal cut at two stds keeps 0.88 of its std


def test_normaliser_makes_the_log_standard_and_inverts() -> None:
    log = linear_world(500, 0)
    log = log._replace(obs=1000 * log.obs + 5, next_obs=1000 * log.next_obs + 5)
    normaliser = Normaliser(spec_of(log))
    for standard in (normaliser.inputs(log.obs, log.action), normaliser.targets(log)):
        torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    next_obs, _, reward, *_ = normaliser.prediction(log.obs, normaliser.targets(log))
    torch.testing.assert_close(next_obs, log.next_obs, atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(reward, log.reward)


def test_mixed_precision_tells_a_millimetre_at_a_metre_and_rounds_no_output() -> None:
    """First and last layers compute in float32: bfloat16 would make 1 of 0.999, and steps of 1/128 of an output."""
    weights = [torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[1.0]]])]
    biases = [torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1.001)]
    x = torch.tensor([[[1.0, 0.999]]])
    with torch.autocast("cpu", torch.bfloat16):
        out = functional.batched_mlp(x, weights, biases)
    hidden = 0.001 / (1 + math.exp(-0.001))  # silu
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(1.001 + hidden, abs=2e-6)
