"""What the models here are composed of: the networks of all members as one, normalisation, a termination head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynamics import functional
from mbrl.core import Batch, Prediction, Spec


class BatchedMLP(nn.Module):
    """E multilayer perceptrons with SiLU, stored as one tensor a layer: weight [E, I, H] and bias [E, 1, H].

    Weights start from a normal of std gain / sqrt(I), truncated at two stds, and biases at zero; PETS's gain is 0.5.
    With `layer_norm`, hidden layers are normalised before their SiLU, with a scale and a shift [E, 1, H] per member.
    """

    def __init__(self, members: int, sizes: Sequence[int], gain: float = 0.5, layer_norm: bool = False) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, i, o)) for i, o in pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, o)) for _, o in pairs)
        normed = sizes[1:-1] if layer_norm else []
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(members, 1, h)) for h in normed)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, h)) for h in normed)
        for weight in self.weights:
            std = gain / weight.shape[1] ** 0.5
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Apply the networks of the given members ([E'] long; default all): [E', B, last size].

        Args:
            x: [B, I], seen by every member, or [E', B, I], where each member has rows of its own.
            members: [E'] long.
        """
        layers = [list(tensors) for tensors in (self.weights, self.biases, self.scales, self.shifts)]
        if members is not None:
            layers = [[tensor[members] for tensor in tensors] for tensors in layers]
        return functional.batched_mlp(functional.as_members(x, len(layers[0][0])), *layers)


class BatchedGRU(nn.Module):
    """E gated recurrent units, stored as one tensor a matrix: weights [E, I, 3 H] and [E, H, 3 H], biases [E, 1, 3 H].

    Weights and biases start as those of `torch.nn.GRU`, uniform within 1 / sqrt(H).
    """

    def __init__(self, members: int, inputs: int, width: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, i, 3 * width)) for i in (inputs, width))
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(members, 1, 3 * width)) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, hidden: Tensor, members: Tensor | None = None) -> Tensor:
        """The next states [E', B, H] for x [B, I] or [E', B, I] and states [E', B, H]."""
        of_x, of_hidden, x_bias, hidden_bias = [*self.weights, *self.biases]
        if members is not None:
            of_x, of_hidden, x_bias, hidden_bias = (t[members] for t in (of_x, of_hidden, x_bias, hidden_bias))
        x = functional.as_members(x, len(of_x))
        return functional.gru_cell(x, hidden, (of_x, of_hidden), (x_bias, hidden_bias))


class Normaliser(nn.Module):
    """Between the environment's units and those in which every channel of the log has mean 0 and std 1.

    With `living` the reward's are those of the rows in which the world went on, where it is of another kind than that
    of ends.
    """

    def __init__(self, spec: Spec, living: bool = False) -> None:
        super().__init__()
        for name in ("obs_mean", "obs_std", "action_mean", "action_std"):
            self.register_buffer(name, torch.tensor(getattr(spec, name), dtype=torch.float32))
        mean = torch.tensor([*spec.delta_mean, spec.reward_mean], dtype=torch.float32)
        std = torch.tensor([*spec.delta_std, spec.reward_std], dtype=torch.float32)
        targets = torch.tensor(spec.targets)
        self.register_buffer("scale", std)
        self.register_buffer("target_mean", mean[targets])
        self.register_buffer("target_std", std[targets])
        if living and spec.live_reward:
            self.target_mean[-1], self.target_std[-1] = spec.live_reward
        self.register_buffer("resets", torch.tensor(spec.resets) if spec.resets else None, persistent=False)
        self.register_buffer("reset_values", torch.tensor(spec.reset_values), persistent=False)
        partial = len(spec.predicted) < spec.obs_dim
        self.register_buffer("predicted", torch.tensor(spec.predicted) if partial else None)

    obs_mean: Tensor  # [O]
    obs_std: Tensor  # [O]
    action_mean: Tensor  # [A]
    action_std: Tensor  # [A]
    scale: Tensor  # [O + 1] std of (next_obs - obs, reward)
    target_mean: Tensor  # [P + 1] of the predicted channels of (next_obs - obs), and the reward
    target_std: Tensor  # [P + 1]
    predicted: Tensor | None  # [P] long: these channels; None where they are all
    resets: Tensor | None  # [R] long: channels that begin anew; None where none does
    reset_values: Tensor  # [R] where

    def obs(self, obs: Tensor) -> Tensor:
        """Observations [..., O] in units of the log's std."""
        return (obs - self.obs_mean) / self.obs_std

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """What a network reads: [..., O + A]."""
        return torch.cat([self.obs(obs), (action - self.action_mean) / self.action_std], -1)

    def resting(self, obs: Tensor) -> Tensor:
        """What channels that rest after obs have next, [..., O]: the same value, or that of their reset."""
        if self.resets is None:
            return obs
        return obs.index_copy(-1, self.resets, self.reset_values.expand(*obs.shape[:-1], -1))

    def targets(self, batch: Batch) -> Tensor:
        """What a network learns: the change of the predicted channels and the reward, [..., P + 1]."""
        change = batch.next_obs - batch.obs
        if self.predicted is not None:
            change = change.index_select(-1, self.predicted)
        return (torch.cat([change, batch.reward.unsqueeze(-1)], -1) - self.target_mean) / self.target_std

    def prediction(
        self, obs: Tensor, mean: Tensor, std: Tensor | None = None, still: Tensor | None = None
    ) -> Prediction:
        """The inverse of `targets`: a Prediction, from obs [..., O] and mean and std (None for zeros) [..., P + 1].

        With `still` [..., P + 1], the probability that a channel rests, they are of those that do not.
        """
        raw = mean * self.target_std + self.target_mean
        wide = torch.zeros_like(raw) if std is None else std * self.target_std
        reward, reward_std = raw[..., -1], wide[..., -1]
        if still is None:
            change, obs_std = self._placed(raw[..., :-1]), self._placed(wide[..., :-1])
            return Prediction(obs + change, obs_std, reward, reward_std, self.scale)
        now = self.resting(obs)
        anew = now - obs if self.predicted is None else (now - obs).index_select(-1, self.predicted)
        moves = raw[..., :-1], wide[..., :-1]
        mixed = functional.mixed_moments(*moves, still[..., :-1], anew)
        change, obs_std, rests, moved, moved_std = map(self._placed, (*mixed, still[..., :-1], *moves))
        both = Prediction(obs + change, obs_std, reward, reward_std, self.scale)
        return both._replace(still=rests, now=now.expand_as(change), moved=obs + moved, moved_std=moved_std)

    def _placed(self, values: Tensor) -> Tensor:
        """The predicted channels [..., P] among all, [..., O]; the others are 0."""
        if self.predicted is None:
            return values
        return values.new_zeros(*values.shape[:-1], len(self.obs_mean)).index_copy(-1, self.predicted, values)


class TerminationHead(nn.Module):
    """A small network per member that reads a whole transition and says whether the world ended with it.

    Ends are rare and mostly sharp (a height below a threshold): gain 1 and a factor make logits steep from the start.
    """

    SHARPNESS = 10.0

    def __init__(self, spec: Spec, members: int, hidden: int, state: int = 0) -> None:
        super().__init__()
        self.mlp = BatchedMLP(members, [2 * spec.obs_dim + spec.action_dim + state, hidden, hidden, 1], gain=1.0)

    def forward(self, inputs: Tensor, next_obs: Tensor, members: Tensor | None = None) -> Tensor:
        """Logits of termination, [E', B], for what `Normaliser.inputs` and `Normaliser.obs` make of a transition.

        The inputs have `state` channels more where the model remembers.
        """
        return self.SHARPNESS * self.mlp(torch.cat([inputs, next_obs], -1), members).squeeze(-1)

    def loss(self, inputs: Tensor, next_obs: Tensor, terminated: Tensor) -> Tensor:
        """Cross-entropy of what happened, [E], for a batch [E, B, ...]."""
        return functional.binary_cross_entropy(self(inputs, next_obs), terminated)


def termination_head(
    spec: Spec, members: int, wanted: bool | None, hidden: int, state: int = 0
) -> TerminationHead | None:
    """A head if it is wanted; by default (None), if the log has true terminals.

    Raises:
        ValueError: a head is wanted, but the log has nothing to teach it.
    """
    if wanted and not spec.terminals:
        raise ValueError("termination_head is true, but the log has no true terminal to learn from; leave it out")
    return TerminationHead(spec, members, hidden, state) if spec.terminals and wanted is not False else None


def check_sizes(members: int, elites: int, layers: int, **widths: int) -> None:
    """Refuse what no ensemble can be built with.

    Raises:
        ValueError: there are more elites than members, or none, fewer than 0 layers, or a width, by its setting's name,
            is below 1.
    """
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} is {width}, expected at least 1")
    if not 1 <= elites <= members:
        raise ValueError(f"elites is {elites}, expected 1 to members={members}")
    if layers < 0:
        raise ValueError(f"layers is {layers}, expected 0 (a linear model) or more")


def layer_decays(given: Sequence[float] | None, layers: int) -> tuple[float, ...]:
    """One weight decay a layer, the last included: the given ones, or 2.5e-5, 5e-5, 7.5e-5 ..., and 1e-4 for the last.

    The defaults are MOPO's (Yu et al. 2020).

    Raises:
        ValueError: there is not one a layer.
    """
    if given is None:
        given = [*[2.5e-5, 5e-5, *[7.5e-5] * layers][:layers], 1e-4]
    if len(given) != layers + 1:
        raise ValueError(f"weight_decays has {len(given)} values, expected one a layer: {layers + 1}")
    return tuple(given)


def decayed(model: nn.Module, weights: Sequence[nn.Parameter], decays: Sequence[float]) -> list[dict[str, Any]]:
    """Parameter groups: the layers' weights by their decay, and everything else without one.

    Adam adds decay * weight to the gradient, as half of it times the squared weights in the loss would.
    """
    groups: dict[float, list[nn.Parameter]] = {0.0: []}
    for weight, decay in zip(weights, decays, strict=True):
        groups.setdefault(decay, []).append(weight)
    chosen = {id(weight) for weight in weights}
    groups[0.0] += [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items() if params]
