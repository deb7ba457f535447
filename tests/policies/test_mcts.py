"""Planning of choices: a tree whose best path is known, and a pole that is to be kept upright."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dynamics_toys import unit_spec
from planning_toys import Heap, Pole, Toy, choices_spec, drawn, fallen, placed, world_of

from mbrl.core import generator
from mbrl.serving.export import export_policy, policy_from
from mbrl.testing import check_policy
from policies import MCTS
from policies.functional import puct

SPEC, PLANE = choices_spec(), choices_spec(2)
ROOT = torch.zeros(1, 1)


def searching(kind: type[Toy], horizon: int, simulations: int, discount: float = 1.0) -> MCTS:
    spec = PLANE if kind is Pole else SPEC
    world = world_of(kind, spec, termination=fallen if kind is Pole else None)
    planner = placed(MCTS(spec, simulations=simulations), world, horizon, discount)
    assert isinstance(planner, MCTS)
    return planner


@torch.no_grad()
@pytest.mark.parametrize(("horizon", "best"), [(1, 0), (2, 0), (3, 1)])
def test_a_search_finds_the_path_that_earns_most(horizon: int, best: int) -> None:
    """To the left 1 and 0.5 more are soon earned; the 3 lie three steps to the right, and nothing before them."""
    assert int(searching(Heap, horizon, 300)(ROOT)) == best


@torch.no_grad()
def test_what_is_far_counts_less_by_the_discount() -> None:
    """Left 1 + 0.5 g, right 3 g^2: even at g = (0.5 + sqrt(12.25)) / 6 = 0.667."""
    for discount, best in ((0.6, 0), (0.75, 1)):
        assert int(searching(Heap, 3, 300, discount)(ROOT)) == best


@torch.no_grad()
def test_the_first_simulations_by_hand() -> None:
    """All values 0 at first: choice 0 earns 1. Then 1 visit there: 1 + 0.625/2 against 0.625 untried and worth 0."""
    one, two, more = (searching(Heap, 1, n).search(ROOT)[0] for n in (1, 2, 8))
    assert one[0].tolist() == [1, 0]
    assert two[0].tolist() == [2, 0]
    assert two[1].tolist() == [1, 0]
    assert more[0].sum() == 8
    assert more[0, 0] > more[0, 1] > 0


def test_the_formula_by_hand() -> None:
    """0.5 + 2 0.25 sqrt(4) / (1 + 3) = 0.75, and 0.2 + 2 0.75 sqrt(4) / (1 + 1) = 1.7."""
    found = puct(torch.tensor([0.5, 0.2]), torch.tensor([3.0, 1.0]), torch.tensor([0.25, 0.75]), 2.0)
    assert found.tolist() == pytest.approx([0.75, 1.7])


@torch.no_grad()
def test_the_critics_speak_where_the_tree_ends_and_of_what_was_not_tried() -> None:
    planner = searching(Heap, 1, 1)
    planner.outlook.critics.biases[-1].copy_(torch.tensor([[[0.0, 2.0]], [[5.0, 4.0]]]))  # the least: 0 and 2
    visits, value = planner.search(ROOT)[0]
    assert visits.tolist() == [0, 1]  # choice 1 is thought worth more; it earns 0, and then (0 + 2) / 2 by the prior
    assert value.tolist() == pytest.approx([0.0, 0.5])  # 0 and 1, between the least and the largest seen, 0 and 2


@torch.no_grad()
def test_a_pole_is_kept_upright() -> None:
    planner, rule = searching(Pole, 6, 24), world_of(Pole, PLANE, termination=fallen).foresight()
    obs, pushed = 0.4 * drawn(6, 2), 0.4 * drawn(6, 2)
    upright, left = torch.ones(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    constant = torch.tensor([[1.0, 0.0]]).expand(6, -1)
    for _ in range(25):
        action = planner.act(obs, None)
        after = rule(obs, action)
        obs, upright = after.next_obs, upright & (after.terminated == 0)
        after = rule(pushed, constant)
        pushed, left = after.next_obs, left & (after.terminated == 0)
    assert upright.all()
    assert not left.any()


@torch.no_grad()
@pytest.mark.parametrize("kind", [Heap, Pole])
def test_contract(kind: type[Toy]) -> None:
    check_policy(searching(kind, 3, 12))


@torch.no_grad()
def test_rows_in_parts_and_alone_are_answered_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    planner, obs = searching(Pole, 4, 16), drawn(9, 2)
    together = planner.search(obs)
    monkeypatch.setattr("policies.planner.AT_ONCE", 8)
    assert torch.equal(planner.act(obs, None).argmax(-1), (together[:, 0] + 0.5 * together[:, 1]).argmax(-1))
    assert torch.equal(planner.search(obs[4:5])[:, 0], together[4:5, 0])


@torch.no_grad()
def test_samples_are_in_proportion_to_the_visits() -> None:
    planner = searching(Heap, 3, 20)
    share = planner.search(ROOT)[0, 0] / 20
    drawn_share = planner.act(ROOT.expand(2000, 1), generator(0, "x")).mean(0)
    assert torch.allclose(drawn_share, share, atol=0.04)
    assert float(share.min()) > 0.05


@torch.no_grad()
def test_a_registered_search_is_made_again_without_the_simulator(tmp_path: Path) -> None:
    planner, obs = searching(Heap, 1, 2), drawn(5)
    export_policy(planner, tmp_path)
    assert torch.equal(policy_from(tmp_path / "policy.ckpt")(obs), planner(obs))
    assert torch.equal(torch.export.load(tmp_path / "policy.pt2").module()(obs), planner(obs))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MCTS(SPEC, simulations=0), "simulations is 0, expected at least 1"),
        (lambda: MCTS(SPEC, exploration=-1.0), "exploration is -1.0"),
        (lambda: MCTS(SPEC, uniform=1.5), "uniform is 1.5"),
        (lambda: MCTS(unit_spec()), r"MCTS plans in Discrete spaces.*Box: use policies\.CEM or policies\.MPPI"),
        (lambda: MCTS(SPEC)(ROOT), "MCTS has no simulator to plan in"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def even(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """The rule that ends a `Heap` behind every choice 1."""
    del obs, action
    return next_obs[..., 0].round() % 2 == 0


@torch.no_grad()
@pytest.mark.parametrize("worth", [50.0, -50.0])
def test_what_critics_say_of_a_world_that_has_ended_is_not_heard(worth: float) -> None:
    """Choice 1 leads to an even number and ends the world, where nobody taught the critics."""

    def every(obs: torch.Tensor) -> torch.Tensor:
        over = (obs > 0) & (obs.round() % 2 == 0)
        return torch.where(over, worth, 0.0).expand(2, -1, 2)

    planner = placed(MCTS(SPEC, simulations=32), world_of(Heap, SPEC, termination=even), 3)
    plain = planner.search(ROOT)[0][0]
    planner.outlook.critics.every = every
    visits = planner.search(ROOT)[0][0]
    assert visits.tolist() == plain.tolist()
    assert visits[0] > visits[1]
