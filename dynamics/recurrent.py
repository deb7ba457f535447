"""A probabilistic ensemble with a memory, for logs whose observation is not the whole state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamics import functional, parts
from dynamics.ending import Ending, end_reward, loss_of_ends
from dynamics.gaussian import GaussianMLP
from mbrl.core import Batch, Prediction, Spec


class RecurrentEnsemble(Ending):
    """E Gaussian networks as in `ProbabilisticEnsemble`, each with a gated recurrent unit that has read the episode.

    Member e has a state h of every row, 0 where an episode begins. Its network reads (obs, action, h) and predicts as
    the memoryless one does; its unit reads the same and moves the state on: h' = GRU((obs, action), h) (Cho et al.
    2014). So the state of a row is made of the rows before it, and one that says nothing leaves a plain ensemble.

    A fit trains it one step ahead on runs of 2 `memory` logged rows: the first half warms the state up, with gradients
    through it, and the second half counts. At an episode's beginning there is nothing to warm up, and all rows count.

    Args:
        spec: the problem; its moments become the normalisation.
        members: E.
        elites: how many of them are rolled out; the rig chooses which after training.
        state: H, width of the state.
        memory: rows that a state has read at least when it counts, where the episode has them: how far back a fit
            learns to look. An update takes as many sequential steps, twice.
        hidden: units of each hidden layer of the network.
        layers: hidden layers; 0 is linear in (obs, action, h).
        layer_norm: LayerNorm on the hidden layers, with a scale and a shift of each member's own.
        weight_decays: one a layer of the network, the last included; L2, by the optimiser. By default those of
            `ProbabilisticEnsemble`. The reward's network has none.
        reward_network: units of each hidden layer of the reward's network, which reads the same; () where the reward is
            one more output of the other.
        state_decay: of the unit's two matrices, likewise.
        logvar_coef: weight of the width of the log-variance bounds in the loss.
        termination_head: whether to learn when the world ends; by default, if the log has true terminals.
        termination_hidden: units of each of that head's two hidden layers.

    Raises:
        ValueError: there are more elites than members, a width or memory is below 1, a layer has no decay of its own,
            or a termination head is asked for without terminals.
    """

    def __init__(
        self,
        spec: Spec,
        members: int = 7,
        elites: int = 5,
        state: int = 64,
        memory: int = 16,
        hidden: int = 200,
        layers: int = 4,
        layer_norm: bool = False,
        weight_decays: Sequence[float] | None = None,
        reward_network: Sequence[int] = (128, 128, 128),
        state_decay: float = 2.5e-5,
        logvar_coef: float = 0.01,
        termination_head: bool | None = None,
        termination_hidden: int = 32,
    ) -> None:
        super().__init__(spec, members)
        widths = {"state": state, "memory": memory, "hidden": hidden, "termination_hidden": termination_hidden}
        parts.check_sizes(members, elites, layers, **widths, reward_network=min(reward_network, default=1))
        self.elites = torch.arange(elites)
        self.state, self.memory = state, memory
        self.weight_decays = parts.layer_decays(weight_decays, layers)
        self.state_decay = state_decay
        self.logvar_coef = logvar_coef
        inputs = spec.obs_dim + spec.action_dim
        self.gru = parts.BatchedGRU(members, inputs, state)
        sizes = [inputs + state, *[hidden] * layers]
        self.gaussian = GaussianMLP(spec, members, sizes, layer_norm, reward_network)
        self.head = parts.termination_head(spec, members, termination_head, termination_hidden, state)
        self.end_reward = end_reward(spec, members, self.head, termination_hidden, state)
        self.ends_apart = self.end_reward is not None
        self.normaliser = parts.Normaliser(spec, living=self.ends_apart)

    def initial(self, rows: int) -> Tensor:
        """Zeros, [E, rows, H]."""
        return self.normaliser.scale.new_zeros(self.members, rows, self.state)

    def remember(self, obs: Tensor, action: Tensor, hidden: Tensor | None, members: Tensor | None = None) -> Tensor:
        """The states [E', B, H] of the rows after these; see `Dynamics.remember`."""
        count = self.members if members is None else len(members)
        return self.gru(self.normaliser.inputs(obs, action), self._known(hidden, count), members)

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Negative log-likelihoods, width of the log-variance bounds, and cross-entropy of the heads: [E]."""
        inputs = self._inputs(batch.obs, batch.action, hidden, self.members)
        kept = batch.next_obs == self.normaliser.resting(batch.obs)
        living = None if self.end_reward is None else ~batch.terminated
        loss = self.gaussian.loss(inputs, self.normaliser.targets(batch), self.logvar_coef, kept, living)
        after = self.normaliser.obs(batch.next_obs)
        return loss + loss_of_ends(self.head, self.end_reward, inputs, after, batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each layer's weights and the unit's matrices with their decays; see `Dynamics.parameter_groups`."""
        weights = [*self.gaussian.mlp.weights, *self.gru.weights]
        return parts.decayed(self, weights, [*self.weight_decays, *[self.state_decay] * 2])

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        """Predict one step; see `Dynamics.predict`."""
        count = self.members if members is None else len(members)
        inputs = self._inputs(obs, action, hidden, count)
        mean, logvar = self.gaussian(inputs, members)
        return self.normaliser.prediction(obs, mean, (0.5 * logvar).exp(), self.gaussian.still(inputs, members))

    def _transition(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What heads read: inputs [E', B, O + A + H] and the next observation [E', B, O], normalised."""
        count = self.members if members is None else len(members)
        inputs = self._inputs(obs, action, hidden, count)
        return inputs, functional.as_members(self.normaliser.obs(next_obs), count)

    def _inputs(self, obs: Tensor, action: Tensor, hidden: Tensor | None, members: int) -> Tensor:
        """What a network reads: [E', B, O + A + H]."""
        seen = functional.as_members(self.normaliser.inputs(obs, action), members)
        return torch.cat([seen, self._known(hidden, members)], -1)

    def _known(self, hidden: Tensor | None, members: int) -> Tensor:
        """The states, which have to be there."""
        if hidden is None or hidden.dim() != 3 or (hidden.shape[0], hidden.shape[2]) != (members, self.state):
            found = None if hidden is None else list(hidden.shape)
            raise ValueError(
                f"hidden is {found}, expected [{members}, B, {self.state}]: RecurrentEnsemble remembers. Give `initial`"
                " where an episode begins, and what `remember` made of it afterwards"
            )
        return hidden
