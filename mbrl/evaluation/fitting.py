"""How Q-functions are fitted to logged rows: the rows, who sees which of them, and the updates.

Axis letters as in `mbrl.core`; M members, I inputs (O + A), n episodes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mbrl.core import Policy, discounted_sums, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.critics import Critics, Encoding
from mbrl.evaluation.estimates import Refused

CHUNK = 8192  # rows read at once, which bounds the memory of a pass over the log
PART = 1024  # rows of each member at once: their activations are many times as large
CENTRE_EVERY, CENTRE_RATE = 100, 0.3  # updates between two looks at the centre, and how far it moves each time
ROOM = 0.01  # by which a target may be out of reach before that counts, in units of the reachable range or value
MARKS = 10  # how often the value is written down on the way


class Rows(NamedTuple):
    """What a Q-function is fitted to."""

    here: Tensor  # [N, I] encoded (obs, action)
    there: Tensor  # [N, I] encoded (next_obs, next action)
    reward: Tensor  # [N]
    discount: Tensor  # [N]: gamma where the world goes on, 0 where it ended
    owner: Tensor  # [N] long: which of the given episodes each row is of

    @classmethod
    def of(
        cls, data: TransitionDataset, episodes: Tensor, policy: Policy | None, encoding: Encoding, gamma: float
    ) -> Self:
        """The rows of `episodes` [n]. A truncated row is bootstrapped from: the world went on.

        Without a policy the next action is the logged one (SARSA); a truncated episode's last row, which has none, is
        left out.
        """
        rows = data.rows(episodes)
        owner = torch.arange(len(episodes), device=rows.device).repeat_interleave(data.lengths[episodes])
        if policy is None:
            last = data.truncated[rows] | data.terminated[rows]
            kept = ~last | data.terminated[rows]
            following = data.action[torch.where(last, rows, rows + 1)]
            rows, owner, following = rows[kept], owner[kept], following[kept]
        else:
            following = acted(policy, data.next_obs[rows])
        here, there = encoding(data.obs[rows], data.action[rows]), encoding(data.next_obs[rows], following)
        discount = torch.where(data.terminated[rows], 0.0, gamma)
        return cls(here, there, data.reward[rows], discount, owner)


class Folds(NamedTuple):
    """Who sees which episodes: each member a bootstrap sample of those outside its own fold, block by block."""

    episode: Tensor  # [n] long, the fold of each episode
    member: Tensor  # [M] long, the fold that each member never sees
    counts: Tensor  # [M, n] long, how often each episode is in each member's sample

    @classmethod
    def drawn(cls, block: Tensor, members: int, folds: int, seed: int) -> Self:
        """Folds of as many blocks, at random, and as many draws with replacement as a member has blocks.

        `block` [n] is that of each episode (`mbrl.data.series.blocks`): of its own, where episodes are independent.
        """
        rng, count = generator(seed, "fqe/folds"), int(block.max()) + 1
        fold = torch.randperm(count, generator=rng) % folds
        member = torch.arange(members) % folds
        counts = []
        for own in member.tolist():
            others = (fold != own).nonzero().squeeze(-1)
            drawn = others[torch.randint(len(others), (len(others),), generator=rng)]
            counts.append(torch.bincount(drawn, minlength=count))
        return cls(
            fold.to(block.device)[block], member.to(block.device), torch.stack(counts).to(block.device)[:, block]
        )

    def held(self, owner: Tensor) -> Tensor:
        """Rows that a member never saw, [M, N] bool, of rows with the episodes `owner` [N]."""
        return self.member.unsqueeze(-1) == self.episode[owner]


class Fit(NamedTuple):
    """M fitted Q-functions: Q = centre + scale * critics."""

    critics: Critics
    centre: Tensor  # [M, 1]
    scale: float
    clipped: float  # share of the targets in the last tenth of the updates that were out of reach
    trace: list[float]  # mean value of the start states after each tenth of the updates

    def values(self, x: Tensor) -> Tensor:
        """Q [M, N] of encoded rows [N, I], a chunk at a time."""
        return self.centre + self.scale * torch.cat([self.critics(part) for part in x.split(CHUNK)], 1)


def acted(policy: Policy, obs: Tensor) -> Tensor:
    """The policy's mode [N, A] at obs [N, O], a chunk at a time."""
    with torch.no_grad():
        return torch.cat([policy.act(part, None) for part in obs.split(CHUNK)])


def reachable(rewards: Tensor, gamma: float, ends: bool, horizon: int | None) -> tuple[float, float]:
    """The least and the greatest discounted value that the rewards [N] of a log allow.

    With c = 1 + gamma + ... + gamma^(horizon - 1), or 1 / (1 - gamma) without a horizon, a world that never ends pays
    c times a reward in their range; one that may end sooner (`ends`, or a horizon), between 1 and c times.
    """
    count = (1 - gamma**horizon if horizon else 1.0) / (1 - gamma)
    shortest = 1.0 if ends or horizon else count
    low, high = float(rewards.min()), float(rewards.max())
    return low * (count if low < 0 else shortest), high * (count if high > 0 else shortest)


def spread_of_values(data: TransitionDataset, episodes: Tensor, gamma: float) -> float:
    """Standard deviation of the logged discounted rewards-to-go: the unit that Q-functions are fitted in."""
    rows = data.rows(episodes)
    reward = data.reward[rows].double()
    ahead = discounted_sums(reward, data.ends(rows), gamma, torch.zeros_like(reward))
    spread = float(ahead.std(correction=0))
    return spread if spread > 0 else 1.0


def fit(
    rows: Rows,
    starts: Tensor,
    folds: Folds,
    limits: tuple[float, float],
    scale: float,
    *,
    hidden: Sequence[int],
    updates: int,
    batch: int,
    lr: float,
    tau: float,
    seed: int,
) -> Fit:
    """Fitted Q evaluation: M networks regress on r + discount * Q'(there), where Q' follows them slowly.

    All members learn in one batched pass, each from minibatches of its own bootstrap sample. Errors that are alike for
    all rows die out with gamma only, by far the slowest: they are kept out of the networks. `centre` is from time to
    time set to the constant that makes the mean temporal difference of Q' vanish (deflation, Lee et al. 2024, with the
    constant function; in a world without end it is the reward centering of Naik et al. 2024). The step size falls to 0
    on a cosine. What is returned is Q', the average over the last updates.
    """
    rng = generator(seed, "fqe/updates", rows.reward.device)
    critics = Critics(rows.here.shape[1], len(folds.member), hidden, rng)
    target = copy.deepcopy(critics).requires_grad_(False)
    live: list[Tensor] = list(critics.parameters())
    slow: list[Tensor] = list(target.parameters())
    room = ROOM * max(limits[1] - limits[0], *map(abs, limits))  # rounding is not divergence
    optimizer = torch.optim.Adam(critics.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    sample = _Sample(rows, folds)
    centre = sample.centre(target, scale, batch * 16, rng)
    trace, clipped, late = [], 0.0, max(1, updates // MARKS)
    for update in range(updates):
        here, there, reward, discount = sample.draw(batch, rng)
        with torch.no_grad():
            raw = reward + discount * (centre + scale * target(there))
            wanted = raw.clamp(*limits)
        loss = (critics(here) - (wanted - centre) / scale).square().mean(-1).sum()  # members do not meet
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        torch._foreach_lerp_(slow, live, tau)
        if update % CENTRE_EVERY == CENTRE_EVERY - 1:
            centre = centre.lerp(sample.centre(target, scale, CHUNK, rng), CENTRE_RATE)
        if update >= updates - late:
            clipped += float((~((raw - wanted).abs() <= room)).float().mean()) / late  # NaN counts
        if (update + 1) * MARKS // updates > update * MARKS // updates:
            with torch.no_grad():
                trace.append(float((centre + scale * target(starts)).mean()))
    return Fit(target, centre, scale, clipped, trace)


class _Sample:
    """Each member's own rows, to draw minibatches from."""

    def __init__(self, rows: Rows, folds: Folds) -> None:
        self.inputs = rows.here.shape[1]
        columns = (rows.here, rows.there, rows.reward.unsqueeze(-1), rows.discount.unsqueeze(-1))
        self.table = torch.cat(columns, -1)  # one gather a minibatch
        every = torch.arange(len(rows.owner), device=rows.owner.device)
        own = [every.repeat_interleave(count[rows.owner]) for count in folds.counts]
        self.index = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
        self.length = torch.tensor([[len(part)] for part in own], device=every.device)
        if not self.length.all():
            raise Refused(
                "a critic would be fitted on no row: too many episodes are one step long and cut there, and such a step"
                " says nothing of what comes next"
            )

    def draw(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """here and there [M, B, I], reward and discount [M, B]."""
        place = torch.rand(len(self.index), batch, generator=rng, device=self.index.device) * self.length
        index = self.index.gather(1, place.long().clamp_max(self.length - 1))
        drawn = self.table.index_select(0, index.flatten()).unflatten(0, index.shape)
        here, there, rest = drawn.split([self.inputs, self.inputs, 2], -1)
        return here, there, rest[..., 0], rest[..., 1]

    @torch.no_grad()
    def centre(self, critics: Critics, scale: float, batch: int, rng: torch.Generator) -> Tensor:
        """The constants [M, 1] with which critics have a mean temporal difference of 0 on drawn rows."""
        here, there, reward, discount = self.draw(batch, rng)
        now, later = (torch.cat([critics(part) for part in x.split(PART, 1)], 1) for x in (here, there))
        surplus = reward + scale * (discount * later - now)
        return surplus.mean(-1, keepdim=True) / (1 - discount).mean(-1, keepdim=True)
