"""What each kind of estimator of `mbrl.evaluation.panel` says of the log, like for like with what it says of policies.

What an estimator makes of the log's own actions beyond what they earned, it makes of anybody's: that is no gain of a
policy, and counts for the log. Less says nothing: where a plant has to be held in balance, actions that answer to
nothing lose it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mbrl.data.series import Pieces
from mbrl.evaluation.answers import sampled, shared_out, worlds
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.modelbased import Recital, rolled
from mbrl.evaluation.opinions import Answer
from mbrl.evaluation.twoway import spread_over


def logged(bench: Bench) -> Answer:
    """Discounted returns of the logged episodes, as far as they were logged."""
    return _earned(bench, bench.returns(bench.gamma).unsqueeze(0))


def recited(bench: Bench) -> Answer:
    """Undiscounted returns of the logged episodes, or what each member of the second simulator pays their actions."""
    answer = _earned(bench, bench.returns(1.0).unsqueeze(0))
    starts, data = bench.starts, bench.data
    if bench.simulator is None:
        return answer
    lengths = data.lengths[data.episode[starts.rows]]
    whole = starts._replace(limit=lengths)
    played = [rolled(Recital(data, starts.rows), world, whole, bench.seed) for world in worlds(bench)]
    return _credited(answer, torch.stack([own.returns(lengths, 1.0).mean() for own in played]))


def continued(bench: Bench) -> Answer:
    """Discounted returns and, where an episode was cut, what the log's own policy would have earned from there on.

    By critics as they are `shared_out`, so that what they do not know of it counts, and is paired with what they do not
    know of a policy.
    """
    data, critic = bench.data, bench.critic(None)
    critic.check()
    last = data.first + data.lengths - 1
    with torch.no_grad():
        ahead = shared_out(critic.q(data.obs[last], data.action[last]), bench).double()
    steps = (data.lengths - 1).double()
    tail = bench.gamma**steps * (ahead - data.reward[last].double())
    return _earned(bench, bench.returns(bench.gamma) + tail.where(~data.terminated[last], 0.0))


def recited_and_continued(bench: Bench) -> Answer:
    """The same, or what each member and its critics make of the log's actions as they do of a policy's.

    That is the trusted steps in the second simulator and from there on, where its world goes on, the fitted Q value of
    the logged row: how far actions that answer to nothing have led astray by then is not to be told from it. An episode
    that was cut before is taken as far as it was logged; one that terminated before has no value beyond.
    """
    answer, data, starts = continued(bench), bench.data, bench.starts
    if bench.simulator is None or not bench.simulator.trusted_horizon:
        return answer
    lengths = data.lengths[data.episode[starts.rows]]
    over = data.terminated[starts.rows + lengths - 1] & (lengths <= bench.simulator.trusted_horizon)
    steps = torch.where(over, lengths, (lengths - 1).clamp(max=bench.simulator.trusted_horizon))
    further = starts._replace(limit=steps + 1)  # by which a world is seen to go on
    played = [rolled(Recital(data, starts.rows), world, further, bench.seed) for world in worlds(bench)]
    at = starts.rows + torch.minimum(steps, lengths - 1)
    ahead = shared_out(bench.critic(None).q(data.obs[at], data.action[at]), bench).double()
    weight = (bench.gamma ** steps.double()).where(~over, 0.0)
    means = []
    for k, tail in enumerate(ahead):
        own = played[k % len(played)]
        going = own.within(steps + 1).sum(0) > steps
        means.append((own.returns(steps, bench.gamma) + weight * tail.where(going, 0.0)).mean())
    return _credited(answer, torch.stack(means))


def fitted(bench: Bench) -> Answer:
    """Fitted Q values of the logged first actions: fitted as those of policies are, so that errors cancel."""
    critic = bench.critic(None)
    critic.check()
    first = bench.starts.rows
    return sampled(critic.q(bench.data.obs[first], bench.data.action[first]), bench)


def _earned(bench: Bench, returns: Tensor) -> Answer:
    """Of the returns [E, n] of all logged episodes, by member: their mean, and those of the bench's start states."""
    whole = spread_over(returns.numpy(force=True), bench.level, Pieces.of(bench.data))
    return Answer(whole, returns[:, bench.data.episode[bench.starts.rows]].numpy(force=True))


def _credited(answer: Answer, made: Tensor) -> Answer:
    """What the log earned, by each member raised to what that one has `made` [E] of its actions, where this is more.

    One that makes less of them must not take from the log what another one adds: whoever answers to the plant would
    gain in its world, and members that all see a gain seem to be of one mind.
    """
    sample = answer.sample
    assert sample is not None
    beyond: np.ndarray = np.maximum(made.numpy(force=True) - sample.mean(-1), 0.0)
    if not beyond.any():
        return answer
    raised = sample + beyond[:, None]
    about = {**answer.estimate.diagnostics, "recited": float(raised.mean())}
    return Answer(answer.estimate._replace(diagnostics=about), raised)
