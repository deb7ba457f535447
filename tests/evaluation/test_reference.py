"""What the panel says of the log, in the world of `panel_toys`: member e goes from x to x + e + 1 and pays x + 10 e.

The bench's two members are 2 and 0, in this order, and critic m says x + 100 m.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from panel_toys import LENGTHS, bench, log

from mbrl.evaluation import reference
from mbrl.evaluation.modelbased import Recital
from mbrl.evaluation.opinions import Answer, Opinion
from mbrl.evaluation.panel import hear
from mbrl.evaluation.twoway import spread_over
from mbrl.registry.gates import CANDIDATE


def test_a_simulator_that_pays_the_logged_actions_less_says_nothing() -> None:
    table, policies = bench()
    table = replace(table, data=replace(table.data, reward=100 * table.data.reward))
    opinion = hear(table, policies, ["model"]).opinions["model"]
    own = 100.0 * np.array(LENGTHS)[log().episode[table.starts.rows]]
    np.testing.assert_array_equal(opinion.log.sample, own[None])
    assert "recited" not in opinion.log.estimate.diagnostics


def test_a_recital_goes_on_with_the_last_action_of_its_episode() -> None:
    data = log((2, 3))
    recital = Recital(replace(data, action=torch.arange(5.0).unsqueeze(-1)), torch.tensor([2, 0]))
    assert [recital.act(torch.zeros(2, 1), None).flatten().tolist() for _ in range(3)] == [[2, 0], [3, 1], [4, 1]]


def continued(length: int, m: int) -> float:
    """What an episode was worth with critic m at its end: its last row's Q is its index + 100 m; the one of 4 ended."""
    return 2 - 0.5**3 if length == 4 else 2 - 0.5 ** (length - 1) + 0.5 ** (length - 1) * (length - 1 + 100 * m - 1)


def test_the_log_goes_on_as_well_where_it_was_cut() -> None:
    """The two critics are paired with the two members of the model; what they do not know of the log is in its bounds.

    Nothing more is said where no card tells how far the simulator is trusted.
    """
    table, policies = bench(trusted=None)
    opinion = hear(table, policies, ["model+fqe"]).opinions["model+fqe"]
    own = np.array(LENGTHS)[log().episode[table.starts.rows]]
    np.testing.assert_allclose(opinion.log.sample, [[continued(n, m) for n in own] for m in (0, 1)])
    every = np.array([[continued(n, m) for n in LENGTHS] for m in (0, 1)])
    assert opinion.log.estimate[:3] == pytest.approx(spread_over(every, 0.9)[:3])


@pytest.mark.parametrize(
    ("trusted", "bounded", "made"),
    [
        # 20 + 23/2 in two steps of member 2, or 20 in one; then the logged row's Q, 2 or 1; member 0 pays 0 and 1
        (2, False, [(20.5 + 3 * 32) / 4, (50.5 + 3 * 26) / 4]),
        # the one of 4 steps terminated, and has no value beyond them; that of 3 was cut, and goes on from its last row
        (4, False, [(20.5 + 41.875 + 32 + 41.625) / 4, (50.5 + 7.875 + 26 + 1.375) / 4]),
        # the second step of member 2 ends the world, and nothing comes after it
        (2, True, [(20.5 + 3 * 31.5) / 4, (50.5 + 3 * 26) / 4]),
    ],
)
def test_what_the_kind_makes_of_the_logged_actions_counts_for_the_log(
    trusted: int, bounded: bool, made: list[float]
) -> None:
    table, policies = bench(trusted)
    assert table.simulator is not None
    if bounded:
        table.simulator.termination = lambda obs, action, after: after[..., 0] > 4
    opinion = hear(table, policies, ["model+fqe"]).opinions["model+fqe"]
    own = np.array(LENGTHS)[log().episode[table.starts.rows]]
    sample = np.array([[continued(n, m) for n in own] for m in (0, 1)])
    beyond = np.maximum(np.array(made) - sample.mean(-1), 0.0)
    np.testing.assert_allclose(opinion.log.sample, sample + beyond[:, None])
    assert opinion.log.estimate.diagnostics["recited"] == pytest.approx((sample.mean(-1) + beyond).mean())
    gain = opinion.answers[CANDIDATE].sample.mean() - (sample.mean(-1) + beyond).mean()
    assert opinion.gain(CANDIDATE).value == pytest.approx(gain)


def test_critics_that_make_less_of_the_logged_actions_say_nothing() -> None:
    table, policies = bench()
    table = replace(table, data=replace(table.data, reward=100 * table.data.reward))
    opinion = hear(table, policies, ["model+fqe"]).opinions["model+fqe"]
    assert "recited" not in opinion.log.estimate.diagnostics
    assert opinion.log.sample.mean() > 100


def test_a_member_that_pays_less_takes_nothing_from_the_log() -> None:
    """Of five worlds one overpays everybody, and in four the log's actions, which answer to nothing, lose.

    A policy that earns what the log earned gains in none: had the four counted against the log, it would in each.
    """
    earned, paid = np.zeros((1, 100)), np.zeros((5, 100))
    paid[0] = 4.1
    paid += 0.1 * np.random.default_rng(0).standard_normal(100)
    log = Answer(spread_over(earned, 0.9), earned)
    credited = reference._credited(log, torch.tensor([4.1, -1.0, -1.0, -1.0, -1.0], dtype=torch.float64))
    gain = Opinion(1.0, 1.0, 0.9, credited, {CANDIDATE: Answer(spread_over(paid, 0.9), paid)}, {}).gain(CANDIDATE)
    assert gain.low < 0 < gain.high
    assert credited.estimate.diagnostics["recited"] == pytest.approx(4.1 / 5)
