"""What a panel says in a world that is counted by hand: member e steps from x to x + e + 1 and pays x + 10 e."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dynamics_toys import unit_spec
from evaluation_toys import Stepped
from panel_toys import LENGTHS, Always, bench, log, whole
from torch import Tensor

from mbrl.core import Policy
from mbrl.data.series import Pieces
from mbrl.evaluation import answers, grounds, modelbased
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.gathering import Provenance, gather, view
from mbrl.evaluation.grounds import Neighbours, support, tail, walk
from mbrl.evaluation.modelbased import Starts, start_states
from mbrl.evaluation.opinions import Answer, Opinion
from mbrl.evaluation.panel import KINDS, Heard, check_kinds, hear
from mbrl.evaluation.trajectories import Trajectories, discounted_returns
from mbrl.evaluation.twoway import spread_over
from mbrl.registry.gates import CANDIDATE, CLONING, LOG, CardFacts
from mbrl.registry.rules import read
from mbrl.simulator.rollout import Played
from mbrl.simulator.simulator import Simulator


def test_every_member_rolls_whole_episodes_out_alone() -> None:
    table, policies = bench()
    opinion = hear(table, policies, ["model"]).opinions["model"]
    limit = table.starts.limit.numpy()
    assert sorted(limit) == [2, 3, 5, 5]  # the episode that terminated might have lasted as long as the longest
    sample = opinion.answers[CANDIDATE].sample
    np.testing.assert_allclose(sample, [whole(limit, 2), whole(limit, 0)])
    assert (opinion.gamma, opinion.spread) == (1.0, pytest.approx(np.std(LENGTHS, ddof=1)))
    assert opinion.log.estimate.value == 3.5
    assert opinion.gain(CANDIDATE, CLONING)[:3] == (0.0, 0.0, 0.0)
    own = np.array(LENGTHS)[log().episode[table.starts.rows]]
    recited = np.array([whole(own, 2).mean(), whole(own, 0).mean()])  # what it pays the log's own actions
    np.testing.assert_allclose(opinion.log.sample, own + (recited - own.mean())[:, None])
    assert opinion.log.estimate.diagnostics["recited"] == recited.mean()
    assert opinion.gain(CANDIDATE).value == pytest.approx(sample.mean() - recited.mean())


def test_the_unit_of_gains_is_one_where_every_episode_earned_the_same() -> None:
    table, policies = bench()
    rounded = torch.tensor([-1 / n for n in LENGTHS for _ in range(n)])  # all earn -1, but for rounding
    table = replace(table, data=replace(table.data, reward=rounded))
    opinion = hear(table, policies, ["model"]).opinions["model"]
    assert opinion.spread == 1.0
    assert opinion.score(CANDIDATE) == opinion.gain(CANDIDATE)


def test_critics_go_on_where_the_simulator_is_no_longer_trusted() -> None:
    """Two steps of member e from 0 pay 10 e, then e + 1 + 10 e at half, and stop at 2 (e + 1), worth a quarter."""
    table, policies = bench()
    opinion = hear(table, policies, ["model+fqe"]).opinions["model+fqe"]
    rows = [10 * e + 0.5 * (e + 1 + 10 * e) + 0.25 * (2 * (e + 1) + 100 * m) for m, e in enumerate((2, 0))]
    np.testing.assert_allclose(opinion.answers[CANDIDATE].sample, np.repeat([[rows[0]], [rows[1]]], 4, axis=1))
    assert opinion.gamma == 0.5


def test_critics_alone_are_compared_with_those_of_the_log() -> None:
    table, policies = bench()
    opinion = hear(table, policies, ["fqe"]).opinions["fqe"]
    np.testing.assert_allclose(opinion.answers[CANDIDATE].sample, [[0.0] * 4, [100.0] * 4])
    assert opinion.gain(CANDIDATE)[:3] == (0.0, 0.0, 0.0)


def test_pieces_of_one_series_count_in_stretches() -> None:
    """Episodes of 2, 3, 4, 5 steps pay as much: r = 1/3, with its correction 5/6, so that halves are alike.

    All that is said of the log, of a policy and of its gain is of two stretches; of a log that was not cut, of four.
    """
    for series, worth in (((4,), 2), ((), 4)):
        table, policies = bench()
        data = log((2, 3, 4, 5), series)
        table = replace(table, data=data, starts=start_states(data, 4, seed=1))
        assert table.starts.rows.tolist() != sorted(table.starts.rows.tolist())
        opinion = hear(table, policies, ["model"]).opinions["model"]
        found = (opinion.log.estimate, opinion.answers[CANDIDATE].estimate, opinion.gain(CANDIDATE))
        assert [estimate.effective_n for estimate in found] == [worth] * 3
        assert opinion.log.estimate[:4] == spread_over(np.array([[2.0, 3.0, 4.0, 5.0]]), 0.9, Pieces.of(data))[:4]
        cost = answers.spent(table, policies[CANDIDATE], lambda obs, action, after: after[:, 0] - obs[:, 0])
        assert cost.effective_n == worth


def test_who_cannot_answer_says_why() -> None:
    table, policies = bench(trusted=None)
    refused = hear(table, policies, ["model+fqe"]).opinions["model+fqe"].refused
    assert refused == dict.fromkeys(policies, "no card says for how many steps the second simulator is trusted")
    few = Bench(table.data, torch.arange(3), None, table.starts, 0.5, 0.9, 0, 10)
    heard = hear(few, policies, ["model", "fqe"])
    told = "critics need 4 episodes to hold some out, and have 3: raise the last of data.split, or log more"
    assert heard.refused == {"fqe": told}
    assert set(heard.opinions["model"].refused.values()) == {"there is no second simulator"}


def test_a_simulator_that_is_trusted_for_no_step_leaves_its_kind_to_the_critics() -> None:
    table, policies = bench(trusted=0)
    heard = hear(table, policies, ["model", "model+fqe", "fqe"])
    assert set(heard.opinions) == {"model", "fqe"}
    assert (heard.refused, heard.repeats) == ({}, {"model+fqe": "fqe"})
    alone = hear(table, policies, ["model", "model+fqe"])  # nobody else says it
    assert alone.repeats == {}
    assert "trusted horizon is 0" in alone.opinions["model+fqe"].refused[CANDIDATE]
    assert hear(bench(trusted=1)[0], policies, ["model"]).repeats == {}
    facts = Provenance({"log": "f"}, {"a": ("b", "b")}, CardFacts("good", 0.9, 0), None)
    roles = {CANDIDATE: CANDIDATE, CLONING: CLONING}
    assert gather(table, heard, roles, policies[CANDIDATE], read(), facts).repeats == {"model+fqe": "fqe"}


def test_wrong_names_and_policies_are_refused() -> None:
    table, policies = bench()
    with pytest.raises(ValueError, match="there is no estimator called guess: the estimators are model, model"):
        hear(table, policies, ["model", "guess"])
    with pytest.raises(ValueError, match="no estimator is named"):
        check_kinds([])
    with pytest.raises(ValueError, match="obs_dim is 2, and the log's 1"):
        hear(table, {"wide": Always(unit_spec(2))}, ["model"])
    assert {"is", "wis", "pdis", "pdwis", "dr", "wdr", "magic", "dice"} < set(KINDS)


def test_a_walk_counts_doubtful_steps() -> None:
    """Members 0 to 2 say x + 1 to x + 3 and differ by 10 in the reward: a spread of 10 sqrt(2/3) = 8.16 in every row.

    That is 1.24 of 6.6 and 1.26 of 6.5.
    """
    table, policies = bench(uncertain=True)
    simulator, starts = table.simulator, table.starts
    for unit, share in ((6.6, 0.0), (6.5, 1.0)):
        simulator.uncertainty_scale.fill_(unit)
        assert walk(policies[CANDIDATE], simulator, starts, table.neighbours(), seed=0).doubt == share
    assert walk(policies[CANDIDATE], simulator.plain(), starts, table.neighbours(), seed=0).doubt is None


def test_doubt_is_asked_for_of_few_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    table, policies = bench(uncertain=True)
    counted: list[int] = []

    def rolled(policy: Policy, simulator: Simulator, starts: Starts, seed: int, **asked: object) -> Played:
        counted.append(len(starts.rows))
        return modelbased.rolled(policy, simulator, starts, seed, **asked)

    monkeypatch.setattr(grounds, "rolled", rolled)
    monkeypatch.setattr(grounds, "WALKED", 3)
    walk(policies[CANDIDATE], table.simulator, table.starts, table.neighbours(), seed=0)
    assert counted == [3]


def test_a_cost_is_counted_in_each_member_s_world() -> None:
    """Members 2 and 0 step by 3 and by 1, and what is beyond 5 costs 1.

    From 0 the one is there after two steps, the other never; episodes have 2, 3, 5 and 5.
    """
    table, policies = bench()
    found = answers.spent(table, policies[CANDIDATE], lambda obs, action, after: (after[:, 0] > 5).float())
    limit = table.starts.limit.numpy()
    assert found[:4] == pytest.approx(spread_over(np.array([limit - 1.0, 0.0 * limit]), 0.9)[:4])
    assert found.high > limit.mean() - 1  # what it costs in the dearer one


def test_a_cost_s_members_are_dealt_to_those_of_the_model() -> None:
    """Of costs 1 and 3 a step, one in each world; of a single world, both."""
    table, policies = bench()
    assert table.simulator is not None

    def both(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        del action, after
        return torch.tensor([[1.0], [3.0], [9.0]]).expand(3, len(obs))

    limit = table.starts.limit.numpy()
    for elites, rates in (([2, 0], [1.0, 3.0]), ([2], [1.0, 3.0, 9.0])):
        table.simulator.dynamics.elites = torch.tensor(elites)
        found = answers.spent(table, policies[CANDIDATE], both)
        assert found[:4] == pytest.approx(spread_over(np.outer(rates, limit), 0.9)[:4])


def test_support_is_the_share_of_states_where_the_action_is_not_odd(toy_data: object) -> None:
    data = toy_data(tuple([20] * 10))
    near, far = Always(data.spec(torch.arange(10)), 0.0), Always(data.spec(torch.arange(10)), 40.0)
    neighbours = Neighbours.of(data, seed=0)
    assert support(far, data, neighbours) == 0.0
    assert support(near, data, neighbours) > 0.8
    with pytest.raises(Refused, match=r"has one episode in a sample of 5 rows.*import it with `cut_every`"):
        Neighbours.of(toy_data((5,)), seed=0)


def test_how_far_a_logged_row_is_from_the_others() -> None:
    """13 rows of 14 have their like in another episode, and the 4 of the longest is one step from the nearest."""
    table, _ = bench()
    near, std = table.neighbours(), torch.tensor([0.0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]).std(correction=0)
    assert near is table.neighbours()
    torch.testing.assert_close(near.gaps.sort().values, torch.tensor([*[0.0] * 13, 1 / std]))
    torch.testing.assert_close(near.radius(0.99), 0.87 / std)  # between the last two of 14
    assert near.radius(0.5) == grounds.LEAST
    found = near.distance(torch.tensor([[4.0], [7.0]]), torch.tensor([[0.0], [4.0]]))  # actions are all 0: a unit of 1
    torch.testing.assert_close(found, torch.tensor([0.0, math.hypot(3 / std, 4.0)]))
    same = replace(table.data, obs=torch.full((sum(LENGTHS), 1), 1e7), next_obs=torch.full((sum(LENGTHS), 1), 1e7))
    assert Neighbours.of(same, seed=0).gaps.tolist() == [0.0] * sum(LENGTHS)


def test_steps_outside_the_log_are_counted() -> None:
    """Member 1 goes 0, 2, 4, 6, 8, and the log ends at 4: two steps of each rollout that is five steps long."""
    table, policies = bench()
    table.simulator.dynamics.elites = torch.tensor([1])
    asked = table.simulator, table.starts, table.neighbours()
    assert walk(policies[CLONING], *asked, seed=0).outside == pytest.approx(4 / 15)
    assert walk(Always(unit_spec(), 0.8), *asked, seed=0).outside == 1.0  # the log never pushes


def test_a_tail_is_the_mean_of_the_worst_tenth() -> None:
    assert tail(np.arange(20.0)) == 0.5
    assert tail(np.array([[3.0, 1.0], [2.0, 9.0]])) == 1.0


def test_the_evidence_of_a_candidate_is_put_together() -> None:
    table, policies = bench(uncertain=True)
    heard = hear(table, policies, ["model", "fqe"])
    facts = Provenance({"log": "f"}, {"a": ("b", "b")}, CardFacts("good", 0.9, 2), None)
    roles = {CANDIDATE: CANDIDATE, CLONING: CLONING}
    evidence = gather(table, heard, roles, policies[CANDIDATE], read(), facts)
    assert set(evidence.views) == {"model", "fqe"}
    assert set(evidence.views["model"].values) == {LOG, CLONING, CANDIDATE}
    assert set(evidence.views["model"].gains) == {LOG, CLONING}
    assert evidence.views["fqe"].gamma == 0.5
    spread = np.std(LENGTHS, ddof=1)
    assert evidence.tail == pytest.approx((1 - 2) / spread)  # member 0's two steps pay 0 + 1, the shortest episode 2
    assert (evidence.doubt, evidence.cost, evidence.card) == (1.0, None, facts.card)
    refusing = Opinion(1.0, 1.0, 0.9, heard.opinions["model"].log, {}, {CANDIDATE: "it cannot say"})
    silent = gather(table, Heard({"dr": refusing}, {"is": "why"}), roles, policies[CANDIDATE], read(), facts)
    assert (silent.views, silent.refused) == ({}, {"is": "why", "dr": "it cannot say"})
    assert silent.tail is None


def test_a_view_is_by_role() -> None:
    table, policies = bench()
    opinion = hear(table, {"toy-policy/1": policies[CLONING], "toy-policy/2": policies[CANDIDATE]}, ["fqe"])
    seen = view(opinion.opinions["fqe"], {CANDIDATE: "toy-policy/2", CLONING: "toy-policy/1"})
    assert set(seen.values) == {LOG, CLONING, CANDIDATE}
    assert isinstance(opinion.opinions["fqe"].answers["toy-policy/1"], Answer)
    assert math.isfinite(seen.standard(CLONING).value)


class Squared(Stepped):
    """Critics that say obs + 100 m^2."""

    def v(self, obs: Tensor) -> Tensor:
        return obs[:, 0] + 100 * torch.arange(float(self.members)).square().unsqueeze(-1)


def test_critics_that_share_a_member_of_the_model_are_no_draws_of_their_own() -> None:
    """Four critics on two members: two rows, the mean of 0, 1, 4 and 9, less a half in one world and more in the other.

    That is how far critics 0 and 1 are from each other's middle: each world's own one, of which the bounds are.
    """
    table, policies = bench()
    four = {key: Squared(4) for key in table.made}
    opinion = hear(replace(table, made=four), policies, ["model+fqe"]).opinions["model+fqe"]
    rows = [
        10 * e + 0.5 * (e + 1 + 10 * e) + 0.25 * (2 * (e + 1) + 100 * m) for e, m in ((2, 3.5 - 0.5), (0, 3.5 + 0.5))
    ]
    np.testing.assert_allclose(opinion.answers[CANDIDATE].sample, np.repeat([[rows[0]], [rows[1]]], 4, axis=1))


def test_bounds_know_of_all_of_what_critics_do_not() -> None:
    """Eight critics and one more, which is the truth, are drawn alike: a bound of 90 % holds in 90 % of 1,000 draws."""
    table, _ = bench()
    assert table.simulator is not None
    draws = torch.randn(1000, 9, generator=torch.Generator().manual_seed(0))
    for members in (2, 5):
        table.simulator.dynamics.elites = torch.arange(members)
        held = 0
        for critics, truth in zip(draws[:, :8], draws[:, 8].tolist(), strict=True):
            rows = answers.shared_out(critics.unsqueeze(-1).expand(8, 4), table)
            held += spread_over(rows.double().numpy(), 0.9).low <= truth
        assert 0.88 < held / 1000 < 0.94


def test_of_a_single_elite_the_critics_are_no_members_of_the_model() -> None:
    table, policies = bench()
    assert table.simulator is not None
    table.simulator.dynamics.elites = torch.tensor([2])
    four = {key: Stepped(4) for key in table.made}
    answer = hear(replace(table, made=four), policies, ["model+fqe"]).opinions["model+fqe"].answers[CANDIDATE]
    assert (len(answer.sample), answer.estimate.diagnostics["members"]) == (4, 1)


def test_exact_weights_are_not_clipped() -> None:
    """Of propensities that were logged: with twelve choices a ratio of 12 is no estimate's error, and e^2 is below it.

    Clipping it would move a mean of negative returns towards 0, and have weights of mean 1 refused for a mean of 0.6.
    """
    table, policies = bench()
    logged = replace(table.data, propensity=torch.zeros(len(table.data)))
    assert answers._weights(replace(table, data=logged), policies[CANDIDATE]).about["clip"] is None


def test_returns_need_no_padding_of_episodes() -> None:
    data = log()
    for gamma in (1.0, 0.5):
        padded = Trajectories.of(data, torch.arange(data.episodes)).returns(gamma)
        torch.testing.assert_close(discounted_returns(data, gamma), padded)
