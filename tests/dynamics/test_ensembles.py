"""What both models of the package promise, and what each adds."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import yaml
from dynamics_toys import linear_world, spec_of, unit_spec

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from mbrl.core import Batch, Dynamics, Spec, seeded
from mbrl.testing import check_dynamics, rows_for

MODELS = [ProbabilisticEnsemble, DeterministicEnsemble]
SMALL = {"members": 3, "elites": 2, "hidden": 8, "layers": 2}


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer norm"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("below", [-math.inf, -1.0], ids=["endless", "terminals"])
def test_contract(model: Callable[..., Dynamics], below: float, layer_norm: bool) -> None:
    check_dynamics(lambda spec: model(spec, **SMALL, layer_norm=layer_norm), spec_of(linear_world(200, 0, below)))


@pytest.mark.parametrize("model", MODELS)
def test_with_layer_norm_a_prediction_stays_bounded_however_far_the_input(model: Callable[..., Dynamics]) -> None:
    far = torch.tensor([[1e3], [1e6]])
    with seeded(0, "bounded"):
        plain, normed = (
            model(unit_spec(), **SMALL, layer_norm=wanted).predict(far, far).obs - far for wanted in (False, True)
        )
    assert (plain[:, 1] / plain[:, 0]).abs().min() > 500  # in proportion
    torch.testing.assert_close(normed[:, 1], normed[:, 0], atol=0.1, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_contract_with_discrete_actions_and_one_member(model: Callable[..., Dynamics]) -> None:
    log = linear_world(200, 0)
    choice = torch.nn.functional.one_hot((log.action[:, 0] > 0).long(), 2).float()
    spec = spec_of(log._replace(action=choice), discrete=True)
    check_dynamics(model(spec, members=1, elites=1, hidden=8, layers=1), spec)


@pytest.mark.parametrize("model", MODELS)
def test_config_is_plain_yaml(model: Callable[..., Dynamics]) -> None:
    config = model(unit_spec()).config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


@pytest.mark.parametrize("model", MODELS)
def test_all_of_a_model_moves_to_one_device(model: Callable[..., Dynamics]) -> None:
    spec = replace(spec_of(linear_world(50, 0, -1.0)), holding=(1,))
    moved = model(spec, **SMALL).to("meta")  # an operand left behind on the CPU is an error there
    batch = Batch(*(t.to("meta").expand(3, *t.shape) for t in rows_for(spec, 4)))
    outputs = [x for x in moved.predict(batch.obs, batch.action) if x is not None] + [moved.loss(batch)]
    outputs.append(moved.termination(batch.obs, batch.action, batch.next_obs, moved.elites.new_empty(3)))
    assert {t.device.type for t in outputs} == {"meta"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 3, "elites": 4}, "elites is 4, expected 1 to members=3"),
        ({"members": 3, "elites": 0}, "elites is 0"),
        ({"members": 0, "elites": 0}, "members is 0"),
        ({"layers": -1}, "layers is -1"),
        ({"hidden": 0}, "hidden is 0, expected at least 1"),
        ({"termination_hidden": 0}, "termination_hidden is 0, expected at least 1"),
        ({"termination_head": True}, "no true terminal to learn from"),
    ],
)
def test_bad_arguments(model: Callable[..., Dynamics], arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(unit_spec(terminals=False), **arguments)


def test_weight_decays_are_the_published_ones_and_one_a_layer() -> None:
    assert ProbabilisticEnsemble(unit_spec(), hidden=2).weight_decays == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    assert ProbabilisticEnsemble(unit_spec(), hidden=2, layers=1).weight_decays == (2.5e-5, 1e-4)
    with pytest.raises(ValueError, match="weight_decays has 2 values, expected one a layer: 3"):
        ProbabilisticEnsemble(unit_spec(), hidden=2, layers=2, weight_decays=[0.1, 0.2])


@pytest.mark.parametrize("model", MODELS)
def test_termination_head_is_there_if_the_log_has_terminals_and_it_is_not_refused(
    model: Callable[..., Dynamics],
) -> None:
    x = torch.zeros(4, 1)
    chance = model(unit_spec(terminals=True), **SMALL).termination(x, x, x)
    assert (chance > 0).all()
    for spec, wanted in (unit_spec(terminals=False), None), (unit_spec(terminals=True), False):
        assert model(spec, **SMALL, termination_head=wanted).termination(x, x, x).eq(0).all()


def linear(spec: Spec, **arguments: float) -> ProbabilisticEnsemble:
    arguments |= {"members": 1, "elites": 1, "layers": 0, "weight_decays": [0.5], "reward_network": []}
    model = ProbabilisticEnsemble(spec, **arguments)
    with torch.no_grad():
        model.gaussian.mlp.weights[0].copy_(torch.tensor([[[1.0, 0.0, -9.0, 0.0], [0.0, 2.0, 0.0, 0.0]]]))
        model.gaussian.mlp.biases[0].copy_(torch.tensor([[[0.0, 0.0, 9.0, 0.0]]]))
        model.gaussian.min_logvar.fill_(-30.0)
        model.gaussian.max_logvar.fill_(30.0)
    return model


def test_prediction_by_hand() -> None:
    spec = unit_spec()
    spec = Spec.from_dict(spec.to_dict() | {"delta_mean": [5.0], "delta_std": [3.0], "reward_std": 0.5})
    found = linear(spec).predict(torch.tensor([[2.0]]), torch.tensor([[0.25]]))
    # normalised: delta mean 1 * 2 with log-variance 9 - 9 * 2; reward mean 2 * 0.25 with log-variance 0
    assert found.obs.item() == pytest.approx(2 + (2 * 3 + 5))
    assert found.obs_std.item() == pytest.approx(3 * math.exp(-4.5), rel=1e-3)
    assert found.reward.item() == pytest.approx(0.5 * 0.5)
    assert found.reward_std.item() == pytest.approx(0.5, rel=1e-3)
    assert found.scale.tolist() == [3.0, 0.5]


def test_loss_by_hand() -> None:
    batch = Batch(
        torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.full((1, 1), 4.0), torch.full((1, 1, 1), 4.0),
        torch.zeros(1, 1, dtype=torch.bool),
    )  # fmt: skip
    # log-variances 0; delta 3 is predicted as 1, reward 4 as 2: nll (4 + 4) / 2; bounds 2 * 60
    loss = linear(unit_spec(), logvar_coef=0.001).loss(batch)
    assert loss.item() == pytest.approx(4 + 0.001 * 120, rel=1e-4)


def test_the_reward_is_the_output_of_its_own_network() -> None:
    model = ProbabilisticEnsemble(unit_spec(), members=1, elites=1, hidden=2, layers=1, reward_network=[2])
    assert [list(weight.shape) for weight in model.gaussian.mlp.weights] == [[1, 2, 2], [1, 2, 2]]
    with torch.no_grad():
        model.gaussian.reward_mlp.weights[0].copy_(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))  # silu(obs)
        model.gaussian.reward_mlp.weights[1].copy_(torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]))  # reward 3 silu(obs)
    found = model.predict(torch.tensor([[2.0]]), torch.tensor([[0.25]]))
    assert found.reward.item() == pytest.approx(3 * 2 / (1 + math.exp(-2)))
    batch = Batch(
        torch.ones(1, 4, 1), torch.ones(1, 4, 1), torch.ones(1, 4), torch.ones(1, 4, 1), torch.zeros(1, 4).bool()
    )
    gradients = []
    for reward in (1.0, 50.0):
        loss = model.loss(batch._replace(reward=torch.full((1, 4), reward))).sum()
        gradients.append(torch.autograd.grad(loss, list(model.gaussian.mlp.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_a_plant_without_noise_does_not_keep_a_sharp_reward_from_being_learned() -> None:
    rng = torch.Generator().manual_seed(0)
    obs, action = (2 * torch.rand(4000, 1, generator=rng) - 1 for _ in range(2))
    reward = -(obs - 0.5 * action).abs().add(0.05).log().squeeze(-1)
    reward = (reward - reward.mean()) / reward.std()
    whole = Batch(obs, action, reward, obs + action, torch.zeros(4000, dtype=torch.bool))
    error = {}
    for network in ((), (32, 32)):
        torch.manual_seed(0)
        model = ProbabilisticEnsemble(unit_spec(), members=1, elites=1, hidden=32, layers=2, reward_network=network)
        optimizer = torch.optim.Adam(model.parameter_groups(), 1e-2)
        for _ in range(400):
            rows = torch.randint(4000, (128,), generator=rng)
            optimizer.zero_grad()
            model.loss(Batch(*(column[rows].unsqueeze(0) for column in whole))).sum().backward()
            optimizer.step()
        error[network] = float((model.predict(obs, action).reward.detach() - reward).square().mean())
    assert error[32, 32] < 0.1
    assert error[()] > 2 * error[32, 32]


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_is_in_one_group_and_only_layers_decay(model: Callable[..., Dynamics]) -> None:
    made = model(unit_spec(terminals=True), **SMALL, layer_norm=True)
    groups = made.parameter_groups()
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in made.parameters())
    decaying = {id(p): group["weight_decay"] for group in groups for p in group["params"] if group["weight_decay"]}
    others = ("head.", "gaussian.reward_mlp.")
    layers = {id(p) for name, p in made.named_parameters() if ".weights." in name and not name.startswith(others)}
    assert set(decaying) == layers


def test_each_layer_has_its_own_decay() -> None:
    model = ProbabilisticEnsemble(unit_spec(), hidden=2, layers=1, weight_decays=[0.5, 0.25])
    decay = {id(p): group["weight_decay"] for group in model.parameter_groups() for p in group["params"]}
    assert [decay[id(weight)] for weight in model.gaussian.mlp.weights] == [0.5, 0.25]


def test_deterministic_predictions_have_no_noise_and_learn_by_squared_error() -> None:
    model = DeterministicEnsemble(unit_spec(), members=1, elites=1, layers=0, weight_decay=0.0)
    with torch.no_grad():
        model.mlp.weights[0].copy_(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    found = model.predict(torch.tensor([[2.0]]), torch.tensor([[0.25]]))
    assert [t.item() for t in found[:4]] == [4.0, 0.0, 0.5, 0.0]
    one = torch.ones(1, 1, 1)
    batch = Batch(one, one, torch.full((1, 1), 4.0), 4 * one, torch.zeros(1, 1, dtype=torch.bool))
    assert model.loss(batch).item() == pytest.approx(4.0)
