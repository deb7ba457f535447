"""The probabilistic ensemble of PETS, MBPO and MOPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamics import parts
from dynamics.ending import Ending, end_reward, loss_of_ends
from dynamics.gaussian import GaussianMLP
from mbrl.core import Batch, Prediction, Spec


class ProbabilisticEnsemble(Ending):
    """E Gaussian networks that predict the normalised change of the observation and the reward.

    Chua et al. 2018 (PETS), with the recipe of Yu et al. 2020 (MOPO); unlike theirs, targets are normalised too, and
    every member has bounds of its own for its log-variance. The reward has a network of its own: see
    `dynamics.gaussian.GaussianMLP`.

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
        ValueError: there are more elites than members, a width is below 1, a layer has no decay of its own, or a
            termination head is asked for without terminals.
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
        widths = {"hidden": hidden, "termination_hidden": termination_hidden}
        parts.check_sizes(members, elites, layers, **widths, reward_network=min(reward_network, default=1))
        self.elites = torch.arange(elites)
        self.weight_decays = parts.layer_decays(weight_decays, layers)
        self.logvar_coef = logvar_coef
        sizes = [spec.obs_dim + spec.action_dim, *[hidden] * layers]
        self.gaussian = GaussianMLP(spec, members, sizes, layer_norm, reward_network)
        self.head = parts.termination_head(spec, members, termination_head, termination_hidden)
        self.end_reward = end_reward(spec, members, self.head, termination_hidden)
        self.ends_apart = self.end_reward is not None
        self.normaliser = parts.Normaliser(spec, living=self.ends_apart)

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Negative log-likelihoods, width of the log-variance bounds, and cross-entropy of the heads: [E]."""
        del hidden
        inputs = self.normaliser.inputs(batch.obs, batch.action)
        kept = batch.next_obs == self.normaliser.resting(batch.obs)
        living = None if self.end_reward is None else ~batch.terminated
        loss = self.gaussian.loss(inputs, self.normaliser.targets(batch), self.logvar_coef, kept, living)
        after = self.normaliser.obs(batch.next_obs)
        return loss + loss_of_ends(self.head, self.end_reward, inputs, after, batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each layer's weights with its decay; see `Dynamics.parameter_groups`."""
        return parts.decayed(self, list(self.gaussian.mlp.weights), self.weight_decays)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        """Predict one step; see `Dynamics.predict`."""
        del hidden
        inputs = self.normaliser.inputs(obs, action)
        mean, logvar = self.gaussian(inputs, members)
        return self.normaliser.prediction(obs, mean, (0.5 * logvar).exp(), self.gaussian.still(inputs, members))
