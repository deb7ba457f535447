"""The probabilistic ensemble of PETS, MBPO and MOPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamics import functional, parts
from mbrl.core import Batch, Dynamics, Prediction, Spec


class ProbabilisticEnsemble(Dynamics):
    """E Gaussian networks that predict the normalised change of the observation and the reward.

    Chua et al. 2018 (PETS), with the recipe of Yu et al. 2020 (MOPO); unlike theirs, targets are normalised too, and
    every member has bounds of its own for its log-variance. The reward has a network of its own: in a common one, the
    likelihood of a plant with little noise weighs an error of the observation thousands of times an error of the
    reward, which is then hardly learned (Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty
    Estimation", say why).

    Args:
        spec: the problem; its moments become the normalisation.
        members: E.
        elites: how many of them are rolled out; the rig chooses which after training.
        hidden: units of each hidden layer.
        layers: hidden layers; 0 is a linear model.
        layer_norm: LayerNorm on the hidden layers, with a scale and a shift of each member's own.
        weight_decays: one a layer, the last included; L2, by the optimiser. By default the published 2.5e-5 and 5e-5
            for the first two layers, 1e-4 for the last, 7.5e-5 between. The reward's network has none.
        reward_network: units of each hidden layer of the reward's network; () where the reward is one more output of
            the other, as in the papers.
        logvar_coef: weight of the width of the log-variance bounds in the loss.
        termination_head: whether to learn when the world ends; by default, if the log has true terminals.
        termination_hidden: units of each of that head's two hidden layers.

    Raises:
        ValueError: there are more elites than members, a layer has no decay of its own, or a termination head is asked
            for without terminals.
    """

    def __init__(
        self,
        spec: Spec,
        members: int = 7,
        elites: int = 5,
        hidden: int = 200,
        layers: int = 4,
        layer_norm: bool = False,
        weight_decays: Sequence[float] | None = None,
        reward_network: Sequence[int] = (128, 128, 128),
        logvar_coef: float = 0.01,
        termination_head: bool | None = None,
        termination_hidden: int = 32,
    ) -> None:
        super().__init__(spec, members)
        if not 1 <= elites <= members:
            raise ValueError(f"elites is {elites}, expected 1 to members={members}")
        if layers < 0:
            raise ValueError(f"layers is {layers}, expected 0 (a linear model) or more")
        if weight_decays is None:
            weight_decays = [*[2.5e-5, 5e-5, *[7.5e-5] * layers][:layers], 1e-4]
        if len(weight_decays) != layers + 1:
            raise ValueError(f"weight_decays has {len(weight_decays)} values, expected one a layer: {layers + 1}")
        self.elites = torch.arange(elites)
        self.weight_decays = tuple(weight_decays)
        self.logvar_coef = logvar_coef
        channels = len(spec.targets)
        self.normaliser = parts.Normaliser(spec)
        width, outputs = spec.obs_dim + spec.action_dim, channels - 1 if reward_network else channels
        self.mlp = parts.BatchedMLP(members, [width, *[hidden] * layers, 2 * outputs], layer_norm=layer_norm)
        self.reward_mlp = (
            parts.BatchedMLP(members, [width, *reward_network, 2], gain=1.0, layer_norm=layer_norm)
            if reward_network
            else None
        )
        self.max_logvar = nn.Parameter(torch.full((members, 1, channels), 0.5))
        self.min_logvar = nn.Parameter(torch.full((members, 1, channels), -10.0))
        self.head = parts.termination_head(spec, members, termination_head, termination_hidden)

    def _gaussian(self, inputs: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalised targets, [E', B, P + 1] each, for inputs [B, I] or [E', B, I]."""
        mean, logvar = self.mlp(inputs, members).chunk(2, -1)
        if self.reward_mlp is not None:
            of_reward = self.reward_mlp(inputs, members)
            mean = torch.cat([mean, of_reward[..., :1]], -1)
            logvar = torch.cat([logvar, of_reward[..., 1:]], -1)
        low: Tensor = self.min_logvar
        high: Tensor = self.max_logvar
        if members is not None:
            low, high = low[members], high[members]
        return mean, functional.soft_clamp(logvar, low, high)

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood, width of the log-variance bounds, and cross-entropy of the head: [E]."""
        inputs = self.normaliser.inputs(batch.obs, batch.action)
        mean, logvar = self._gaussian(inputs)
        loss = functional.gaussian_nll(mean, logvar, self.normaliser.targets(batch))
        loss = loss + self.logvar_coef * (self.max_logvar - self.min_logvar).sum((-2, -1))
        if self.head is not None:
            logit = self.head(inputs, self.normaliser.obs(batch.next_obs))
            loss = loss + functional.binary_cross_entropy(logit, batch.terminated)
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each layer's weights with its decay; see `Dynamics.parameter_groups`."""
        return parts.decayed(self, list(self.mlp.weights), self.weight_decays)

    def predict(self, obs: Tensor, action: Tensor, members: Tensor | None = None) -> Prediction:
        """Predict one step; see `Dynamics.predict`."""
        mean, logvar = self._gaussian(self.normaliser.inputs(obs, action), members)
        return self.normaliser.prediction(obs, mean, (0.5 * logvar).exp())

    def termination(self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None) -> Tensor:
        """Probability that the world ends with this transition; see `Dynamics.termination`."""
        if self.head is None:
            return super().termination(obs, action, next_obs, members)
        inputs = self.normaliser.inputs(obs, action)
        return self.head(inputs, self.normaliser.obs(next_obs), members).sigmoid()
