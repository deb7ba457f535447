"""What each kind of estimator of `mbrl.evaluation.panel` says of a policy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mbrl.core import Policy
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.estimates import Estimate, Refused
from mbrl.evaluation.importance import importance_sampling
from mbrl.evaluation.marginal import marginal_value
from mbrl.evaluation.modelbased import rolled, truncated_values
from mbrl.evaluation.opinions import Answer
from mbrl.evaluation.ratios import CLIP, Ratios, Weights
from mbrl.evaluation.twoway import spread_over
from mbrl.simulator.rollout import Cost, Measure, Played
from mbrl.simulator.simulator import Simulator


def sampled(values: Tensor, bench: Bench) -> Answer:
    """Of [E, S] values by member and start state of the bench."""
    sample = values.double().numpy(force=True)
    return Answer(spread_over(sample, bench.level, bench.pieces), sample)


# ---------------------------------------------------------------------- in the second simulator


def worlds(bench: Bench) -> list[Simulator]:
    """One for each elite member, which then takes every step: its error stays its own from start to end."""
    if bench.simulator is None:
        raise Refused("there is no second simulator")
    worlds = []
    for member in bench.simulator.dynamics.elites:
        world, dynamics = bench.simulator.plain(), copy.copy(bench.simulator.dynamics)
        dynamics._buffers = {**dynamics._buffers, "elites": member.view(1)}
        world._modules = {**world._modules, "dynamics": dynamics}
        worlds.append(world)
    return worlds


def _rollouts(bench: Bench, policy: Policy, horizon: int | None, measure: Measure | None = None) -> list[Played]:
    """By member, of whole episodes or up to the horizon; all policies meet the same noise."""
    return [rolled(policy, world, bench.starts, bench.seed, horizon, measure, whole=False) for world in worlds(bench)]


def simulated(bench: Bench, policy: Policy) -> Answer:
    episodes = _rollouts(bench, policy, None)
    return sampled(torch.stack([played.returns(bench.starts.limit, 1.0) for played in episodes]), bench)


def spent(bench: Bench, policy: Policy, cost: Cost) -> Estimate:
    """What an episode costs, undiscounted, with a row for each member of the model, and a member of the cost in each.

    Where a member is wrong about what leads to a cost, no start state and no noise tells: as of a return, the bounds
    are for what a member that nobody fitted would say. Of a single one the members of the cost are the rows.
    """

    def measure(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return torch.atleast_2d(cost(obs, action, after))

    sums = []
    for played in _rollouts(bench, policy, None, measure):
        assert played.measured is not None
        sums.append(played.measured.where(played.within(bench.starts.limit).unsqueeze(1), 0.0).sum(0))
    count = len(sums) if len(sums) > 1 else len(sums[0])
    rows = [sums[k % len(sums)][k % len(sums[0])] for k in range(count)]
    return sampled(torch.stack(rows), bench).estimate


def begun_and_fitted(bench: Bench, policy: Policy) -> Answer:
    """`mbrl.evaluation.modelbased.truncated_value` with a row for each member of the model, see `shared_out`.

    Critics that go on from the same member's rollouts share its error, and so are no draws of their own. Of a single
    member no spread is known: the critics' is taken, and the diagnostics count one member.
    """
    critic = bench.critic(policy)
    critic.check()  # before any rollout
    trusted = None if bench.simulator is None else bench.simulator.trusted_horizon
    if trusted is None:
        raise Refused("no card says for how many steps the second simulator is trusted")
    values = [truncated_values(begun, critic) for begun in _rollouts(bench, policy, trusted)]
    shared = [shared_out(own.T, bench) for own in values]
    rows = [shared[k % len(values)][k] for k in range(len(shared[0]))]
    found = sampled(torch.stack(rows), bench)
    if len(values) > 1:
        return found
    estimate = found.estimate
    return found._replace(estimate=estimate._replace(diagnostics={**estimate.diagnostics, "members": 1}))


def shared_out(values: Tensor, bench: Bench) -> Tensor:
    """Values [M, ...] by critic as rows for the E members of the model: [E, ...]; those of one or of none as they are.

    Every row is the mean of all critics and how far its own one lies from the others that have a row. Means of shares
    would have M / E times less of a spread than what a critic that nobody fitted adds to it: with 8 critics and 5
    members, bounds of 90 % that are made of critics alone hold for 87 %.
    """
    members = 1 if bench.simulator is None else len(bench.simulator.dynamics.elites)
    if members == 1:
        return values
    own = values[torch.arange(members, device=values.device) % len(values)]
    return values.mean(0) + own - own.mean(0)


# ---------------------------------------------------------------------- from logged rows


def fitted(bench: Bench, policy: Policy) -> Answer:
    critic = bench.critic(policy)
    critic.check()
    return sampled(critic.v(bench.starts.obs), bench)


def _weights(bench: Bench, policy: Policy) -> Weights:
    """Clipped where ratios are estimated; exact ones are not to be moved, and their mean says whether they are."""
    seen = bench.seen()
    behaviour = bench.behaviour() if seen.propensity is None else None
    return Weights.of(Ratios.of(policy, seen, behaviour), seen, None if behaviour is None else CLIP)


def weighed(name: Any, bench: Bench, policy: Policy) -> Answer:
    weights = _weights(bench, policy)
    return Answer(importance_sampling(name, weights, bench.seen(), bench.gamma, level=bench.coverage, seed=bench.seed))


def corrected(estimator: Callable[..., Estimate], bench: Bench, policy: Policy) -> Answer:
    weights, seen = _weights(bench, policy), bench.seen()
    values = bench.critic(policy).cross_fitted(seen, bench.episodes)
    return Answer(estimator(weights, seen, bench.gamma, values.q, values.v, level=bench.coverage, seed=bench.seed))


def marginal(bench: Bench, policy: Policy | None) -> Answer:
    level, seed = bench.coverage, bench.seed
    return Answer(marginal_value(bench.data, bench.episodes, policy, gamma=bench.gamma, level=level, seed=seed))
