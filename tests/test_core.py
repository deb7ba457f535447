"""The nouns of mbrl.core: what they remember, what they refuse, and that named random streams stay apart."""

import copy
import json
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics, Learner, Memory, Policy, Prediction, Spec, build, generator, locate, seeded

SPEC = Spec(
    obs_dim=2,
    action_dim=1,
    discrete=False,
    action_low=(-2.0,),
    action_high=(2.0,),
    action_mean=(0.5,),
    action_std=(1.0,),
    obs_mean=(0.0, 1.0),
    obs_std=(1.0, 2.0),
    obs_low=(-3.0, -3.0),
    obs_high=(3.0, 3.0),
    delta_mean=(0.0, 0.1),
    delta_std=(0.1, 0.2),
    reward_mean=0.25,
    reward_std=0.5,
    reward_low=-1.0,
    reward_high=1.0,
    terminals=True,
    max_episode_steps=200,
)


class Constant(Policy):
    def __init__(self, spec: Spec, value: float = 0.25, *, layers: list[int] | None = None) -> None:
        del layers
        super().__init__(spec)
        self.row = torch.nn.Parameter(torch.full((spec.action_dim,), value))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return self.row.expand(len(obs), -1)


class Still(Dynamics):
    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return batch.reward.mean(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        raise NotImplementedError


def test_spec_survives_json() -> None:
    plain = json.loads(json.dumps(SPEC.to_dict()))
    assert plain["obs_mean"] == [0.0, 1.0]
    assert set(plain) == {f.name for f in fields(Spec)}
    assert Spec.from_dict(plain) == SPEC
    assert hash(Spec.from_dict(plain)) == hash(SPEC)  # tuples again, not lists


@pytest.mark.parametrize("change", [{"obs_dim": None}, {"horizon": 5}], ids=["missing", "unknown"])
def test_spec_of_another_version_is_refused_by_field_name(change: dict[str, Any]) -> None:
    values = {**SPEC.to_dict(), **change}
    values = {k: v for k, v in values.items() if v is not None}
    with pytest.raises(ValueError, match=rf"\['{next(iter(change))}'\] are missing or unknown"):
        Spec.from_dict(values)


def test_a_spec_from_before_a_field_is_read_without_it() -> None:
    values = {name: value for name, value in SPEC.to_dict().items() if name != "terminal_rate"}
    assert Spec.from_dict(values) == SPEC
    assert SPEC.terminal_rate == 0.0


def test_config_holds_defaults_keywords_and_never_the_spec() -> None:
    assert Constant(SPEC).config == {
        "class_path": f"{__name__}.Constant",
        "init_args": {"value": 0.25, "layers": None},
    }
    assert Constant(SPEC, 1.0, layers=[8, 8]).config["init_args"] == {"value": 1.0, "layers": [8, 8]}
    assert Still(SPEC, members=3).config["init_args"] == {"members": 3}


def test_config_rebuilds_the_same_module() -> None:
    first = Constant(SPEC, 1.5)
    second = build(first.config, Policy, SPEC)
    second.load_state_dict(first.state_dict())
    assert type(second) is Constant
    assert second.config == first.config
    assert torch.equal(second.act(torch.zeros(3, 2), None), torch.full((3, 1), 1.5))


def test_copies_remember_too() -> None:
    first = Constant(SPEC, 1.5, layers=[8])
    second = copy.deepcopy(first)
    assert second.config == first.config
    assert second.config["init_args"]["layers"] is not first.config["init_args"]["layers"]
    second.row.data.zero_()
    assert first.row.item() == 1.5


def test_config_is_no_part_of_the_weights() -> None:
    assert set(Constant(SPEC).state_dict()) == {"row"}
    assert dict(Still(SPEC, 2).named_buffers()).keys() == {"elites"}


def test_dynamics_needs_a_member_and_starts_with_all_as_elites() -> None:
    assert torch.equal(Still(SPEC, 3).elites, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="members is 0, expected at least 1"):
        Still(SPEC, 0)


def test_without_a_head_the_world_never_ends() -> None:
    obs, action = torch.zeros(4, 2), torch.zeros(4, 1)
    assert torch.equal(Still(SPEC, 3).termination(obs, action, obs), torch.zeros(3, 4))
    assert torch.equal(Still(SPEC, 3).termination(obs, action, obs, torch.tensor([2])), torch.zeros(1, 4))
    each = torch.zeros(3, 5, 2)
    assert Still(SPEC, 3).termination(each, torch.zeros(3, 5, 1), each).shape == (3, 5)


def test_a_spec_has_one_value_a_channel() -> None:
    with pytest.raises(ValueError, match=r"obs_std has 3 values, expected one a channel: 2"):
        Spec.from_dict({**SPEC.to_dict(), "obs_std": [1.0, 1.0, 1.0]})
    with pytest.raises(ValueError, match=r"action_low has 2 values, expected one a channel: 1"):
        Spec.from_dict({**SPEC.to_dict(), "action_low": [0.0, 0.0]})


def test_what_no_yaml_can_name_is_refused_at_once() -> None:
    class Positional(Constant):
        def __init__(self, spec: Spec, *layers: int) -> None:
            super().__init__(spec)

    with pytest.raises(TypeError, match=r"takes \*layers"):
        Positional(SPEC, 1, 2)


def test_the_description_is_no_alias_of_the_caller_s_list() -> None:
    layers = [8]
    config = Constant(SPEC, layers=layers).config
    layers.append(16)
    assert config["init_args"] == {"value": 0.25, "layers": [8]}


class Wider(Constant):
    def __init__(self, spec: Spec, width: int, *, value: float = 2.0, **constant: Any) -> None:
        super().__init__(spec, value=value, **constant)
        self.width = width


class Widest(Wider):
    def __init__(self, spec: Spec, **wider: Any) -> None:
        super().__init__(spec, **wider)


def test_config_holds_what_an_init_leaves_to_the_next_one() -> None:
    assert Wider(SPEC, 3).config["init_args"] == {"width": 3, "value": 2.0, "layers": None}  # 0.25 is not reached
    given = Widest(SPEC, width=4, layers=(8, 8))
    assert given.config["init_args"] == {"width": 4, "value": 2.0, "layers": [8, 8]}
    assert given.row.tolist() == [2.0]
    again = build(given.config, Policy, SPEC)
    assert (type(again), again.width, again.config) == (Widest, 4, given.config)
    assert copy.deepcopy(given).config == given.config


@pytest.mark.parametrize("cls", [Constant, Wider, Widest])
def test_an_argument_that_no_init_names_is_refused(cls: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'wdith'"):
        cls(SPEC, wdith=3)


def test_abstract_nouns_have_no_instances() -> None:
    for noun in (Dynamics, Policy, Learner):
        with pytest.raises(TypeError, match="abstract"):
            noun(SPEC)


def test_policy_serves_its_mode_as_the_environment_wants_it() -> None:
    obs = torch.zeros(2, 2)
    assert torch.equal(Constant(SPEC)(obs), torch.full((2, 1), 0.25))
    assert Constant(SPEC).log_prob(obs, torch.zeros(2, 1)) is None

    class OneHot(Constant):
        def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
            return torch.eye(3)[[2, 0]]

    wide = {k: v * 3 for k, v in SPEC.to_dict().items() if k.startswith("action_") and isinstance(v, list)}
    discrete = Spec.from_dict({**SPEC.to_dict(), **wide, "discrete": True, "action_dim": 3})
    served = OneHot(discrete)(obs)
    assert served.dtype == torch.int64
    assert served.tolist() == [2, 0]


def test_normalised_prediction_by_hand() -> None:
    said = Prediction(
        obs=torch.tensor([[[2.0, 6.0]]]),
        obs_std=torch.tensor([[[1.0, 3.0]]]),
        reward=torch.tensor([[8.0]]),
        reward_std=torch.tensor([[0.5]]),
        scale=torch.tensor([2.0, 3.0, 4.0]),
    )
    mean, std = said.normalised()
    assert mean.tolist() == [[[1.0, 2.0, 2.0]]]
    assert std.tolist() == [[[0.5, 1.0, 0.125]]]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.at.all", "No module named 'nowhere'; if that is a file of yours, set PYTHONPATH to the folder"),
        ("mbrl.core.Nothing", "no attribute 'Nothing'"),
        ("Policy", "Empty module name"),
        ("", "Empty module name"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"'{path}' is not an importable dotted path: .*{reason}"):
        locate(path)


def test_locate_finds_modules_classes_and_functions() -> None:
    assert locate("mbrl.core.Policy") is Policy
    assert locate("mbrl.core") is sys.modules["mbrl.core"]


@pytest.mark.parametrize("path", ["mbrl.core.Spec", "mbrl.core.generator", "mbrl.core.Learner"])
def test_a_class_of_the_wrong_kind_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=rf"class_path '{path}' is not a subclass of mbrl.core.Policy"):
        build({"class_path": path}, Policy, SPEC)


def draw(seed: int, stream: str) -> Tensor:
    return torch.rand(10_000, generator=generator(seed, stream))


def test_a_stream_is_reproducible_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(draw(7, "start"), draw(7, "start"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("seed", "stream"), [(7, "noise"), (8, "start"), (-7, "start")])
def test_streams_are_independent(seed: int, stream: str) -> None:
    pair = torch.stack([draw(7, "start"), draw(seed, stream)])
    assert pair.corrcoef()[0, 1].abs() < 0.04  # four standard errors of 10,000 independent draws


def test_seed_and_stream_cannot_be_confused() -> None:
    assert not torch.equal(draw(1, "2/x"), draw(12, "/x"))
    assert not torch.equal(draw(1, "1"), draw(11, ""))


def test_streams_are_the_same_on_every_machine() -> None:
    assert generator(0, "start").initial_seed() == int("50b84e7c31d3f2", 16)  # the head of sha256("0/start")


def test_seeded_networks_are_reproducible_and_the_global_state_comes_back() -> None:
    before = torch.get_rng_state()
    drawn = []
    for stream in ("policy", "policy", "model"):
        with seeded(3, stream):
            drawn.append(torch.nn.Linear(4, 4).weight)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_seeded_puts_the_global_state_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="members is 0"), seeded(3, "model"):
        Still(SPEC, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_build_names_what_does_not_fit() -> None:
    path = f"{Constant.__module__}.Constant"
    widest = f"{__name__}.Widest"
    for config, message in (
        ({"init_args": {}}, "has no class_path"),
        ({"class_path": "mbrl.core.Policy"}, "is not a subclass of mbrl.core.Policy that can be built"),
        ({"class_path": path, "init_args": {"wdith": 3}}, "wdith"),
        ({"class_path": widest, "init_args": {"width": 3, "wdith": 3}}, "unexpected keyword argument 'wdith'"),
        ({"class_path": widest, "init_args": {}}, "missing a required.* argument: 'width'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(config, Policy, SPEC)


def test_what_is_predicted_is_all_but_the_exogenous() -> None:
    assert (SPEC.predicted, SPEC.targets) == ((0, 1), (0, 1, 2))
    driven = replace(SPEC, exogenous=(0,), predicted=())
    assert (driven.predicted, driven.targets) == ((1,), (1, 2))
    assert Spec.from_dict(json.loads(json.dumps(driven.to_dict()))) == driven


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": (0, 2)}, r"predicted is \[0, 2\], expected channels from 0 to 1 in order"),
        ({"predicted": (1, 0)}, r"predicted is \[1, 0\], expected channels from 0 to 1 in order"),
        ({"exogenous": (-1,), "predicted": ()}, r"exogenous is \[-1\], expected channels from 0 to 1 in order"),
        ({"exogenous": (1,)}, r"channels \[1\] are predicted and exogenous"),
        ({"exogenous": (0, 1), "predicted": ()}, "all 2 channels are exogenous, carried or clocks, and none is left"),
    ],
)
def test_channels_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


def test_memory_goes_row_by_row() -> None:
    one = Memory(torch.arange(4), torch.arange(8.0).view(4, 2))
    other = Memory(10 + torch.arange(4), 10 + torch.arange(8.0).view(4, 2))
    fresh = torch.tensor([False, True, False, True])
    mixed = one.unless(fresh, other)
    assert mixed.cursor is not None
    assert mixed.hidden is not None
    assert mixed.cursor.tolist() == [0, 11, 2, 13]
    assert mixed.hidden.tolist() == [[0, 1], [12, 13], [4, 5], [16, 17]]
    assert one.at(fresh).cursor.tolist() == [1, 3]  # type: ignore[union-attr]
    again = one.put(fresh, other.at(fresh))
    assert torch.equal(again.cursor, mixed.cursor)  # type: ignore[arg-type]
    assert torch.equal(again.hidden, mixed.hidden)  # type: ignore[arg-type]
    assert Memory().at(fresh) == Memory().unless(fresh, Memory()) == Memory().put(fresh, Memory()) == Memory()
