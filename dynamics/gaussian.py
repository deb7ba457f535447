"""What probabilistic members say of a step: a Gaussian of each channel that changes, and whether set-points do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamics import functional
from dynamics.parts import BatchedMLP
from mbrl.core import Spec

HURDLE = 64  # units of the two hidden layers that say whether channels rest


class GaussianMLP(nn.Module):
    """`BatchedMLP`s whose outputs are the mean and the log-variance of C channels, the reward's last.

    Every member has bounds of its own for its log-variance, which the loss draws together (PETS, Chua et al. 2018,
    appendix A.1). The reward has a network of its own, unless it has no layers: in a common one, the likelihood of a
    plant with little noise weighs an error of the observation thousands of times an error of the reward, which is then
    hardly learned (Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty Estimation", say why). For the
    same reason that network has their loss, with their beta of 0.5: likelihood alone explains a sharp peak as noise.

    Channels of `Spec.resting` are a hurdle model (Cragg 1971, "Some Statistical Models for Limited Dependent
    Variables"): one more network says whether they change at all, or begin anew, and the Gaussian is of the rows in
    which they do something else. A Gaussian of all rows would let a set-point that rests for an hour tremble at every
    step, and days since an order be neither one more nor none.

    Args:
        spec: the problem.
        members: E.
        sizes: inputs, and units of each hidden layer.
        layer_norm: on the hidden layers.
        reward_network: units of each hidden layer of the reward's network; () for none.
    """

    beta: Tensor | None  # [C], see `functional.gaussian_nll`
    resting: Tensor  # [H] long: which of the C channels may have one value exactly
    channels: Tensor  # [H] long: the same of the observation's

    def __init__(
        self, spec: Spec, members: int, sizes: Sequence[int], layer_norm: bool, reward_network: Sequence[int]
    ) -> None:
        super().__init__()
        channels = len(spec.targets)
        outputs = channels - 1 if reward_network else channels
        self.mlp = BatchedMLP(members, [*sizes, 2 * outputs], layer_norm=layer_norm)
        self.reward_mlp = (
            BatchedMLP(members, [sizes[0], *reward_network, 2], gain=1.0, layer_norm=layer_norm)
            if reward_network
            else None
        )
        beta = torch.tensor([0.0] * outputs + [0.5]) if reward_network else None
        self.register_buffer("beta", beta, persistent=False)
        places = torch.tensor([spec.targets.index(k) for k in spec.resting], dtype=torch.long)
        self.register_buffer("resting", places, persistent=False)
        self.register_buffer("channels", torch.tensor(spec.resting, dtype=torch.long), persistent=False)
        hurdle = [sizes[0], HURDLE, HURDLE, len(places)]
        self.hurdle = BatchedMLP(members, hurdle, gain=1.0, layer_norm=layer_norm) if len(places) else None
        self.max_logvar = nn.Parameter(torch.full((members, 1, channels), 0.5))
        self.min_logvar = nn.Parameter(torch.full((members, 1, channels), -10.0))

    def forward(self, x: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of what changes, [E', B, C] each, for inputs [B, I] or [E', B, I]."""
        mean, logvar = self.mlp(x, members).chunk(2, -1)
        if self.reward_mlp is not None:
            of_reward = self.reward_mlp(x, members)
            mean = torch.cat([mean, of_reward[..., :1]], -1)
            logvar = torch.cat([logvar, of_reward[..., 1:]], -1)
        low: Tensor = self.min_logvar
        high: Tensor = self.max_logvar
        if members is not None:
            low, high = low[members], high[members]
        return mean, functional.soft_clamp(logvar, low, high)

    def still(self, x: Tensor, members: Tensor | None = None) -> Tensor | None:
        """Probability [E', B, C] that a channel rests, 0 for those that never do; None where none does."""
        if self.hurdle is None:
            return None
        chance = self.hurdle(x, members).sigmoid()
        return chance.new_zeros(*chance.shape[:-1], self.max_logvar.shape[-1]).index_copy(-1, self.resting, chance)

    def loss(self, x: Tensor, target: Tensor, coef: float, kept: Tensor, living: Tensor | None = None) -> Tensor:
        """What the networks cost each member, [E].

        Args:
            x: inputs [E, B, I].
            target: [E, B, C], whose `functional.gaussian_nll` with `beta` it is, where the channel changed.
            coef: of the width of the log-variance bounds.
            kept: [E, B, O] bool, whether a channel rested: the cross-entropy of those that may is added.
            living: [E, B] bool, the rows whose reward counts; None for all.
        """
        mean, logvar = self(x)
        if self.hurdle is None and living is None:
            return functional.gaussian_nll(mean, logvar, target, self.beta) + coef * self._width()
        counted = torch.ones_like(mean, dtype=torch.bool)
        if living is not None:
            counted[..., -1] = living
        if self.hurdle is None:
            return functional.gaussian_nll(mean, logvar, target, self.beta, counted) + coef * self._width()
        rested = kept.index_select(-1, self.channels)
        nll = functional.gaussian_nll(mean, logvar, target, self.beta, counted.index_copy(-1, self.resting, ~rested))
        return nll + functional.binary_cross_entropy(self.hurdle(x), rested) + coef * self._width()

    def _width(self) -> Tensor:
        return (self.max_logvar - self.min_logvar).sum((-2, -1))
