"""Planning of Box actions: plans that are known to be the best, and answers that depend on nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dynamics_toys import unit_spec
from planning_toys import Hill, Integrator, above_one, choices_spec, doubt_above_one, drawn, placed, world_of

from mbrl.core import generator
from mbrl.serving.export import example, export_policy, policy_from
from mbrl.testing import check_policy
from policies import CEM, MPPI
from policies.functional import coloured, elite_weights, path_weights
from policies.shooting import Shooting

SPEC = unit_spec(1, -100.0, 100.0)
MADE: dict[str, Callable[[], Shooting]] = {
    "icem": lambda: CEM(SPEC, candidates=64, rounds=6, elites=6, colour=0.5),
    "cem": lambda: CEM(SPEC, candidates=64, rounds=6, elites=6, colour=0.0, momentum=0.0, keep=False, decay=1.0),
    "mppi": lambda: MPPI(SPEC, candidates=64, rounds=8, temperature=0.1, colour=0.0),
}


def regulator(x: float, horizon: int, discount: float) -> list[float]:
    """The best actions of `Integrator` from x: Riccati's recursion, backwards from a value of 0."""
    gains, cost = [], 0.0
    for _ in range(horizon):
        gains.append(discount * cost / (1 + discount * cost))
        cost = 1 + discount * cost - (discount * cost) ** 2 / (1 + discount * cost)
    actions = []
    for gain in reversed(gains):
        actions.append(-gain * x)
        x += actions[-1]
    return actions


@torch.no_grad()
@pytest.mark.parametrize("name", MADE)
def test_a_plan_is_that_of_the_regulator(name: str) -> None:
    planner = placed(MADE[name](), world_of(Integrator), horizon=3, discount=0.9)
    starts = torch.tensor([[0.8], [-0.5], [0.0]])
    wanted = torch.tensor([regulator(float(x), 3, 0.9) for x in starts])
    assert float(wanted[0, 2]) == 0.0  # the last action only costs
    found = planner.plan(starts)[..., 0]
    assert torch.allclose(found, wanted, atol=0.03), (found - wanted).abs().max()
    assert torch.equal(planner.act(starts, None)[:, 0], found[:, 0])


@pytest.mark.parametrize("candidates", [63, 64])
def test_candidates_lie_on_both_sides_of_the_plan_alike(candidates: int) -> None:
    planner = placed(CEM(SPEC, candidates=candidates, rounds=3, elites=6), world_of(Integrator), horizon=3)
    for count, noise in zip(planner.counts, planner.noise, strict=True):
        assert torch.equal(noise[:count].sort(0).values, -noise[:count].sort(0, descending=True).values)
        assert (noise[:count] == 0).all(-1).all(-1).sum() == 2 - count % 2


@torch.no_grad()
@pytest.mark.parametrize("name", MADE)
def test_contract(name: str) -> None:
    check_policy(placed(MADE[name](), world_of(Integrator, apart=0.1), horizon=3))


@torch.no_grad()
@pytest.mark.parametrize("name", MADE)
def test_what_is_worth_most_lies_behind_doubt_only_for_those_who_take_it(name: str) -> None:
    """From 0.9, a step up earns, and leads above 1, where the simulator is unsure."""
    world, start = world_of(Hill, uncertainty=doubt_above_one), torch.tensor([[0.9]])
    bold = placed(MADE[name](), world, horizon=3)
    wary = placed(MADE[name](), world, horizon=3, penalty=10.0)
    assert float(bold.act(start, None)) > 0.9
    assert float(wary.act(start, None)) <= 0.1
    above = start + wary.plan(start)[0].cumsum(0)
    assert float(above.max()) < 1.05


@torch.no_grad()
def test_a_plan_counts_nothing_after_the_end_of_the_world() -> None:
    """From 0.5 by a = 0.6 and then 0.4: 0.5 alone is earned, as the world has ended; by 0.4 and 0.6, 0.5 + 0.9 g."""
    outlook = placed(MADE["cem"](), world_of(Hill, termination=above_one), horizon=2, discount=0.9).outlook
    actions = torch.tensor([[[[0.6], [0.4]], [[0.4], [0.6]]]])
    assert outlook.worth(torch.tensor([[0.5]]), actions).tolist() == [pytest.approx([0.5, 0.5 + 0.9 * 0.9])]


@torch.no_grad()
def test_worth_is_gain_less_doubt_and_the_least_critic_beyond() -> None:
    """x = 0.8, a = 0.5: 0.8 now with doubt 1 at a penalty of 2, then gamma (= 0.5) times the smaller critic, -3."""
    planner = placed(MADE["cem"](), world_of(Hill, uncertainty=doubt_above_one), 1, 0.5, 2.0)
    planner.outlook.critics.biases[-1].copy_(torch.tensor([[[4.0]], [[-3.0]]]))
    worth = planner.outlook.worth(torch.tensor([[0.8]]), torch.tensor([[[[0.5]]]]))
    assert float(worth) == pytest.approx(0.8 - 2.0 + 0.5 * -3.0)


@torch.no_grad()
def test_rows_in_parts_and_alone_are_answered_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    planner, obs = placed(MADE["icem"](), world_of(Integrator), horizon=4), drawn(9)
    together = planner.act(obs, None)
    for size in (64 * 2, 64 * 2 * 4):
        monkeypatch.setattr("policies.planner.AT_ONCE", size)
        assert torch.allclose(planner.act(obs, None), together, atol=1e-5)
    sampled = planner.act(obs, generator(0, "x"))
    assert not torch.equal(sampled, together)
    assert torch.allclose(planner.act(obs[:1], generator(0, "x")), sampled[:1], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: CEM(SPEC, rounds=2), lambda: MPPI(SPEC, rounds=1)], ids=["cem", "mppi"])
def test_a_registered_plan_is_made_again_without_the_simulator(make: Callable[[], Shooting], tmp_path: Path) -> None:
    planner = placed(make(), world_of(Integrator, uncertainty=doubt_above_one, apart=0.2), 1, 0.9, 1.0)
    export_policy(planner, tmp_path)
    again, obs = policy_from(tmp_path / "policy.ckpt"), drawn(5)
    assert torch.equal(again(obs), planner(obs))
    program = torch.export.load(tmp_path / "policy.pt2").module()
    assert torch.allclose(program(obs), planner(obs), atol=1e-5)
    assert program(example(SPEC)["obs"]).shape == (3, 1)


def test_coloured_noise_has_unit_variance_and_the_correlation_of_its_spectrum() -> None:
    white = torch.randn(20_000, 6, generator=generator(0, "x"))
    assert torch.allclose(coloured(white, 0.0), white, atol=1e-5)
    red = coloured(white, 2.0)
    assert torch.allclose(red.std(0), torch.ones(6), atol=0.03)
    power = [(1 / max(1 / 6, min(k, 6 - k) / 6)) ** 2 for k in range(6)]  # 1 / f^2, 0 as the lowest
    shares = [p / sum(power) for p in power]
    neighbours = shares[0] + (shares[1] + shares[5]) / 2 - (shares[2] + shares[4]) / 2 - shares[3]
    assert float((red[:, :-1] * red[:, 1:]).mean()) == pytest.approx(neighbours, abs=0.02)
    assert torch.equal(coloured(white[:, :1], 2.0), white[:, :1])


def test_weights_of_elites_are_even_inside_and_change_little_at_the_edge() -> None:
    scores = torch.tensor([[0.0, 10.0, 9.0, 1.0, -50.0]])
    weights = elite_weights(scores, 2, 0.05, 1e-4)
    assert torch.allclose(weights, torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0]]), atol=1e-3)
    tied = elite_weights(torch.tensor([[5.0, 1.0, 1.0]]), 2, 0.05, 1e-4)
    assert torch.allclose(tied, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-3)  # two for one place: neither
    assert torch.allclose(elite_weights(torch.zeros(1, 4), 2, 0.05, 1e-4), torch.full((1, 4), 0.25))


def test_one_candidate_that_is_far_better_does_not_make_elites_of_all() -> None:
    """Its lead would widen a soft edge until every other candidate lies on it."""
    scores = torch.randn(1, 64, generator=generator(0, "x"))
    scores[0, 5] = 100.0
    weights = elite_weights(scores, 8, 0.05, 1e-4)
    assert set(weights.nonzero()[:, 1].tolist()) <= set(scores.topk(8).indices[0].tolist())
    assert float(weights[0, 5]) > 0.5
    lone = torch.zeros(1, 64)
    lone[0, 5] = 1.0
    assert elite_weights(lone, 8, 0.05, 1e-4).argmax() == 5
    assert float(elite_weights(lone, 8, 0.05, 1e-4)[0, 5]) == pytest.approx(1.0)


@pytest.mark.parametrize("gap", [0.0, 1e-5, 1e-4, 1e-3, 1.0])
def test_weights_of_elites_move_with_the_scores_by_as_little(gap: float) -> None:
    scores = torch.tensor([[gap, gap, 0.0, 0.0]], dtype=torch.float64)
    moved = scores + torch.tensor([[0.0, 1e-9, 0.0, 0.0]], dtype=torch.float64)
    change = elite_weights(moved, 2, 0.05, 1e-4) - elite_weights(scores, 2, 0.05, 1e-4)
    assert float(change.abs().max()) < 1e-4


def test_path_weights_are_those_of_the_paper() -> None:
    """Scores -1 and 1 have a standard deviation of 1: with a temperature of 1/2 weights are as e^-2 and e^2."""
    found = path_weights(torch.tensor([[-1.0, 1.0]]), 0.5, 0.0)
    low = 2.718281828**-2 / (2.718281828**-2 + 2.718281828**2)
    assert found.flatten().tolist() == pytest.approx([low, 1 - low])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: CEM(SPEC, candidates=3, elites=2), "candidates is 3, expected at least 4"),
        (lambda: CEM(SPEC, rounds=0), "rounds is 0"),
        (lambda: CEM(SPEC, elites=64), "elites is 64, expected at least 2 and fewer than the 64 candidates"),
        (lambda: CEM(SPEC, momentum=1.0), "momentum is 1.0"),
        (lambda: CEM(SPEC, decay=0.5), "decay is 0.5, expected at least 1"),
        (lambda: MPPI(SPEC, std=0.0), "std is 0.0"),
        (lambda: MPPI(SPEC, colour=float("nan")), "colour is nan"),
        (lambda: MPPI(SPEC, temperature=0.0), "temperature is 0.0"),
        (
            lambda: MPPI(choices_spec()),
            r"MPPI plans in Box spaces, and this log's actions are Discrete: use policies\.MCTS",
        ),
        (lambda: MPPI(SPEC).act(drawn(2), None), "MPPI has no simulator to plan in"),
        (
            lambda: placed(CEM(SPEC), world_of(Hill), 2, penalty=1.0),
            "penalty is 1.0 but the simulator has no uncertainty",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
