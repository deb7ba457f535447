"""The recurrent ensemble: its equations against torch's own unit, its contract, what it refuses."""

import math

import pytest
import torch
import yaml
from dynamics_toys import linear_world, spec_of, unit_spec
from memory_toys import Summing

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from dynamics.parts import BatchedGRU
from mbrl.core import Batch, seeded
from mbrl.testing import check_dynamics, rows_for

SMALL = {"members": 3, "elites": 2, "state": 4, "memory": 3, "hidden": 8, "layers": 2}
ENDING = spec_of(linear_world(200, 0, -1.0))


def small(**arguments: object) -> RecurrentEnsemble:
    with seeded(0, "test"):
        return RecurrentEnsemble(ENDING, **{**SMALL, **arguments})  # type: ignore[arg-type]


def test_one_step_of_a_unit_by_hand() -> None:
    # all weights 1 and biases 0, x = 1, h = 0.5: r = z = s(1.5), n = tanh(1 + r 0.5), h' = (1 - z) n + z 0.5
    unit = BatchedGRU(1, 1, 1)
    with torch.no_grad():
        for weight, bias in zip(unit.weights, unit.biases, strict=True):
            weight.fill_(1.0)
            bias.fill_(0.0)
    gate = 1 / (1 + math.exp(-1.5))
    expected = (1 - gate) * math.tanh(1 + gate * 0.5) + gate * 0.5
    assert unit(torch.ones(1, 1), torch.full((1, 1, 1), 0.5)).item() == pytest.approx(expected)


def test_every_member_is_a_gru_of_torch() -> None:
    with seeded(0, "test"):
        unit, x, hidden = BatchedGRU(3, 5, 4), torch.randn(3, 6, 5), torch.randn(3, 6, 4)
    for member in range(3):
        cell = torch.nn.GRUCell(5, 4)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for name, ours in zip(names, [*unit.weights, *unit.biases], strict=True):
            getattr(cell, name).data = ours[member].detach().T.reshape(getattr(cell, name).shape)
        wanted = cell(x[member], hidden[member])
        torch.testing.assert_close(unit(x, hidden)[member], wanted)
        chosen = torch.tensor([member])
        torch.testing.assert_close(unit(x[member], hidden[chosen], chosen)[0], wanted)


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer norm"])
@pytest.mark.parametrize("below", [-math.inf, -1.0], ids=["endless", "terminals"])
def test_contract(below: float, layer_norm: bool) -> None:
    spec = spec_of(linear_world(200, 0, below))
    check_dynamics(lambda spec: RecurrentEnsemble(spec, **SMALL, layer_norm=layer_norm), spec)  # type: ignore[arg-type]


def test_contract_of_discrete_actions_partial_channels_and_one_member() -> None:
    log = linear_world(200, 0)
    choice = torch.nn.functional.one_hot((log.action[:, 0] > 0).long(), 2).float()
    spec = spec_of(log._replace(action=choice), discrete=True)
    spec = type(spec).from_dict(spec.to_dict() | {"predicted": [1], "exogenous": [0]})
    check_dynamics(RecurrentEnsemble(spec, members=1, elites=1, hidden=8, layers=0), spec)


def test_without_states_it_is_the_memoryless_ensemble() -> None:
    model, plain = small(), ProbabilisticEnsemble(ENDING, members=3, elites=2, hidden=8, layers=2)
    inputs = ENDING.obs_dim + ENDING.action_dim
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            first = name.endswith("mlp.weights.0")
            here = torch.arange(inputs) if name.startswith("gaussian") else torch.tensor([0, 1, 2, 7, 8])
            parameter.copy_(ours[name][:, here] if first else ours[name])
    rows = rows_for(ENDING, 5)
    states = model.initial(5)
    for one, other in zip(
        model.predict(rows.obs, rows.action, None, states), plain.predict(rows.obs, rows.action), strict=True
    ):
        torch.testing.assert_close(one, other)
    ends = model.termination(rows.obs, rows.action, rows.next_obs, None, states)
    torch.testing.assert_close(ends, plain.termination(rows.obs, rows.action, rows.next_obs))


def test_every_parameter_is_in_one_group_and_matrices_decay() -> None:
    model = small(weight_decays=[0.1, 0.2, 0.3], state_decay=0.4, layer_norm=True)
    groups = model.parameter_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decay[id(p)] for p in [*model.gaussian.mlp.weights, *model.gru.weights]] == [0.1, 0.2, 0.3, 0.4, 0.4]
    assert all(decay[id(p)] == 0 for p in [*model.gru.biases, model.gaussian.max_logvar])


def test_config_is_plain_yaml_and_all_of_it_moves_to_one_device() -> None:
    model = small()
    assert yaml.safe_load(yaml.safe_dump(model.config)) == model.config
    moved = model.to("meta")  # an operand left behind on the CPU is an error there
    rows = Batch(*(t.to("meta").expand(3, *t.shape) for t in rows_for(ENDING, 4)))
    states = moved.remember(rows.obs, rows.action, moved.initial(4))
    said = moved.predict(rows.obs, rows.action, None, states)
    outputs = [states, *(x for x in said if x is not None), moved.loss(rows, states)]
    outputs.append(moved.termination(rows.obs, rows.action, rows.next_obs, None, states))
    assert {t.device.type for t in outputs} == {"meta"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 3, "elites": 4}, "elites is 4, expected 1 to members=3"),
        ({"layers": -1}, "layers is -1"),
        ({"state": 0}, "state is 0, expected at least 1"),
        ({"memory": 0}, "memory is 0, expected at least 1"),
        ({"hidden": 0}, "hidden is 0, expected at least 1"),
        ({"reward_network": [8, 0]}, "reward_network is 0, expected at least 1"),
        ({"weight_decays": [0.1]}, "weight_decays has 1 values, expected one a layer: 5"),
        ({"termination_head": True}, "no true terminal to learn from"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentEnsemble(unit_spec(terminals=False), **arguments)  # type: ignore[arg-type]


def test_missing_and_misshapen_states_are_refused() -> None:
    model, rows = small(), rows_for(ENDING, 5)
    with pytest.raises(ValueError, match=r"hidden is None, expected \[3, B, 4\]: RecurrentEnsemble remembers"):
        model.predict(rows.obs, rows.action)
    with pytest.raises(ValueError, match=r"hidden is \[3, 5, 4\], expected \[1, B, 4\]"):
        model.remember(rows.obs, rows.action, model.initial(5), torch.tensor([1]))
    with pytest.raises(ValueError, match="hidden is None"):
        model.termination(rows.obs, rows.action, rows.next_obs)


class Untrained(Summing):
    def __init__(self, spec: object) -> None:
        super().__init__(spec, 2)  # type: ignore[arg-type]
        self.memory = 0


class Blank(Summing):
    def initial(self, rows: int) -> None:  # type: ignore[override]
        del rows


class Deaf(Summing):
    def predict(self, obs, action, members=None, hidden=None):  # type: ignore[no-untyped-def]
        return super().predict(obs, action, members, torch.zeros_like(hidden))


class Mixing(Summing):
    def remember(self, obs, action, hidden, members=None):  # type: ignore[no-untyped-def]
        return super().remember(obs, action, hidden, members) + obs.mean()


class Unselective(Summing):
    def remember(self, obs, action, hidden, members=None):  # type: ignore[no-untyped-def]
        return super().remember(obs, action, hidden, None if members is None else 0 * members)


def test_the_contract_of_states_is_checked() -> None:
    spec = unit_spec()
    check_dynamics(Summing(spec, 2), spec)
    broken = [
        (Untrained(spec), "initial gives states, and memory is 0"),
        (Blank(spec, 2), "memory is 4, and initial gives no states"),
        (Deaf(spec, 2), "predict does not depend on hidden"),
        (Mixing(spec, 2), "the state of a row depends on its neighbours"),
        (Unselective(spec, 2), "remember with `members` is not what"),
    ]
    for model, message in broken:
        with pytest.raises(AssertionError, match=message):
            check_dynamics(model, spec)
