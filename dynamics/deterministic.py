"""An ensemble of plain regressors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamics import functional, parts
from dynamics.ending import Ending
from mbrl.core import Batch, Prediction, Spec


class DeterministicEnsemble(Ending):
    """E networks that predict the normalised change of the observation and the reward, without noise.

    The model of MOReL (Kidambi et al. 2020): disagreement between members is its only uncertainty.

    Args:
        spec: the problem; its moments become the normalisation.
        members: E.
        elites: how many of them are rolled out; the rig chooses which after training.
        hidden: units of each hidden layer.
        layers: hidden layers; 0 is a linear model.
        layer_norm: LayerNorm on the hidden layers, with a scale and a shift of each member's own.
        weight_decay: of every layer, L2, by the optimiser.
        termination_head: whether to learn when the world ends; by default, if the log has true terminals.
        termination_hidden: units of each of that head's two hidden layers.

    Raises:
        ValueError: more elites than members, a width below 1, or a head is asked for without terminals.
    """

    def __init__(
        self,
        spec: Spec,
        members: int = 4,
        elites: int = 4,
        hidden: int = 200,
        layers: int = 4,
        layer_norm: bool = False,
        weight_decay: float = 2.5e-5,
        termination_head: bool | None = None,
        termination_hidden: int = 32,
    ) -> None:
        super().__init__(spec, members)
        widths = {"hidden": hidden, "termination_hidden": termination_hidden}
        parts.check_sizes(members, elites, layers, **widths)
        self.elites = torch.arange(elites)
        self.weight_decay = weight_decay
        self.normaliser = parts.Normaliser(spec)
        sizes = [spec.obs_dim + spec.action_dim, *[hidden] * layers, len(spec.targets)]
        self.mlp = parts.BatchedMLP(members, sizes, layer_norm=layer_norm)
        self.head = parts.termination_head(spec, members, termination_head, termination_hidden)
        self.end_reward = None  # one network says what any step pays

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Squared error, and cross-entropy of the head: [E]."""
        del hidden
        inputs = self.normaliser.inputs(batch.obs, batch.action)
        loss = functional.squared_error(self.mlp(inputs), self.normaliser.targets(batch))
        if self.head is None:
            return loss
        return loss + self.head.loss(inputs, self.normaliser.obs(batch.next_obs), batch.terminated)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The layers' weights with their decay; see `Dynamics.parameter_groups`."""
        weights = list(self.mlp.weights)
        return parts.decayed(self, weights, [self.weight_decay] * len(weights))

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        """Predict one step, with stds of zero; see `Dynamics.predict`."""
        del hidden
        mean = self.mlp(self.normaliser.inputs(obs, action), members)
        return self.normaliser.prediction(obs, mean)
