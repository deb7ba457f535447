"""Behaviour cloning: the baseline of every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend
from policies.actors import Categorical, Deterministic


class BC(Learner):
    """Supervised imitation of the log (Pomerleau 1989): squared error for Box actions, in units of half their range,
    cross-entropy for Discrete ones.
    """

    imagines = False

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), lr: float = 1e-3) -> None:
        super().__init__(spec)
        actor = Categorical if spec.discrete else Deterministic
        self.actor: Categorical | Deterministic = actor(spec, tuple(hidden))
        self.optimizers = {"actor": Adam(self.actor.parameters(), lr, fused=True)}

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        if isinstance(self.actor, Categorical):
            loss = -self.actor.log_prob(real.obs, real.action).mean()
        else:
            bounds = self.actor.bounds
            error = bounds.unscale(self.actor.act(real.obs, None)) - bounds.unscale(real.action)
            loss = error.square().mean()
        descend(self.optimizers["actor"], loss)
        return {"loss": loss.detach()}
