"""A learned world: a dynamics model, a termination and an uncertainty become one pure, seeded step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec, Step, build, locate, seeded
from mbrl.simulator.dealing import Deal, chunk_rows, deal
from mbrl.simulator.recalibration import (
    FLOOR,
    Forecast,
    Method,
    Recalibration,
    Residuals,
    moments,
    outcome,
    residuals,
)

Uncertainty = Callable[[Prediction], Tensor]  # Prediction of all members -> [B]
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs -> bool [B]

CALIBRATION_ROWS = 8192  # predicted at once, which bounds the memory of a calibration


class Simulator(nn.Module):
    """Steps a learned world honestly: the reward carries no penalty, and the uncertainty stands beside it.

    Every row is stepped by one elite member, drawn anew at every step; rows are dealt to the elites at random and in
    equal numbers. The next observation and the reward are samples of that member's Gaussian, clipped to the range of
    the log, widened.

    Args:
        dynamics: the model, already trained.
        spec: the problem the log was read for.
        uncertainty: Prediction of all members -> [B]. None: each row is evaluated by its own member alone, which is
            several times faster, and uncertainty is zero.
        termination: a rule (obs, action, next_obs) -> bool [B]. None: a draw from the model's learned head if the log
            has true terminals, else the world never ends.
        margin: how far predictions may leave the log's range, as a fraction of it, on either side.
        quantile: the quantile of the uncertainty on held-out logged transitions that counts as 1.
        recalibration: what `calibrate` makes of held-out errors: "scale", one factor a channel for the members' stds;
            "isotonic", that factor and an empirical quantile function a channel for the stated intervals.
        starts: logged start states [S, O], kept with the simulator for those who have no log.
        trusted_horizon: steps up to which its report card trusts it, 0 where not even one; None where there is no card.

    Raises:
        ValueError: margin or trusted_horizon is negative, quantile is not within (0, 1], there is no such
            recalibration, or starts are not [S >= 1, O] within the range that predictions are clipped to.
    """

    low: Tensor  # [O + 1] of next observation and reward, log's range and margin
    high: Tensor  # [O + 1]
    uncertainty_scale: Tensor  # [] raw uncertainty that counts as 1
    starts: Tensor | None  # [S, O]

    def __init__(
        self,
        dynamics: Dynamics,
        spec: Spec,
        uncertainty: Uncertainty | None = None,
        termination: Termination | None = None,
        margin: float = 0.1,
        quantile: float = 0.95,
        recalibration: Method = "isotonic",
        starts: Tensor | None = None,
        trusted_horizon: int | None = None,
    ) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin is {margin}, expected a fraction of the log's range, 0 or more")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile is {quantile}, expected more than 0 and at most 1")
        if recalibration not in get_args(Method):
            raise ValueError(f"recalibration is {recalibration!r}, expected one of {', '.join(get_args(Method))}")
        if trusted_horizon is not None and trusted_horizon < 0:
            raise ValueError(f"trusted_horizon is {trusted_horizon}, expected 0 or more steps, or None if not known")
        self.dynamics = dynamics
        self.spec = spec
        self.uncertainty = uncertainty
        self.termination = termination
        self.margin = margin
        self.quantile = quantile
        self.method = recalibration
        self.trusted_horizon = trusted_horizon
        self.calibrated = False
        self.recalibration = Recalibration(spec.obs_dim + 1)
        low = torch.tensor([*spec.obs_low, spec.reward_low])
        high = torch.tensor([*spec.obs_high, spec.reward_high])
        self.register_buffer("low", low - margin * (high - low))
        self.register_buffer("high", high + margin * (high - low))
        self.register_buffer("uncertainty_scale", torch.ones(()))
        self.register_buffer("starts", None if starts is None else starts.clone(), persistent=False)
        self._check_starts()

    def _check_starts(self) -> None:
        if self.starts is None:
            return
        if self.starts.ndim != 2 or not len(self.starts) or self.starts.shape[1] != self.spec.obs_dim:
            raise ValueError(f"starts have shape {list(self.starts.shape)}, expected [S >= 1, {self.spec.obs_dim}]")
        low, high = self.low[:-1], self.high[:-1]
        outside = ~((low <= self.starts) & (self.starts <= high))  # true of NaN
        if outside.any():
            row, channel = (int(i) for i in outside.nonzero()[0])
            raise ValueError(
                f"start state {row} has {float(self.starts[row, channel])} in channel {channel}, expected"
                f" {float(low[channel])} to {float(high[channel])}: give starts of the episodes that made the spec"
            )

    @torch.no_grad()
    def calibrate(self, holdout: Batch) -> None:
        """Fit the intervals, and set the unit of the uncertainty, on held-out logged transitions [N, ...].

        That unit is the uncertainty's `quantile` on these rows. A quantile below a millionth of the log's own spread
        counts as that millionth, so that a model which knows no doubt (one deterministic member) has an uncertainty of
        zero instead of amplified rounding.

        Raises:
            ValueError: there are no rows, or a prediction or an uncertainty of some is not finite.
        """
        rows = len(holdout.obs)
        if rows == 0:
            raise ValueError("no held-out transitions to calibrate the simulator on: hold out at least one episode")
        raw, parts = [], []
        for chunk in zip(*(column.split(CALIBRATION_ROWS) for column in holdout), strict=True):
            batch = Batch(*chunk)
            everyone = self.dynamics.predict(batch.obs, batch.action)
            mean, std = (moment[self.dynamics.elites] for moment in moments(everyone))
            parts.append(residuals(mean, std, outcome(batch), everyone.scale))
            if self.uncertainty is not None:
                raw.append(self.uncertainty(everyone))
        if raw:
            self.uncertainty_scale.copy_(self._unit(torch.cat(raw)))
        held = Residuals(*(torch.cat(column) for column in zip(*parts, strict=True)))
        self.recalibration.fit(held, everyone.scale, self.method)
        self.calibrated = True

    def _unit(self, raw: Tensor) -> Tensor:
        """The smallest uncertainty with the share `quantile` of `raw` [N] at or below it."""
        rows = len(raw)
        if not raw.isfinite().all():
            bad = int((~raw.isfinite()).sum())
            raise ValueError(
                f"the uncertainty of {bad} of {rows} held-out transitions is not finite: the model diverged"
            )
        rank = max(1, math.ceil(round(self.quantile * rows, 6)))
        return raw.kthvalue(rank).values.clamp_min(FLOOR)

    def forecast(self, prediction: Prediction) -> Forecast:
        """Mean and std [B, O + 1] of next observation and reward, from the prediction of all members.

        `recalibration` turns it into intervals. The mean is not clipped to the log's range.
        """
        mean, std = (moment[self.dynamics.elites] for moment in moments(prediction))
        return self.recalibration.forecast(mean, std, prediction.scale)

    @torch.no_grad()
    def propagate(self, obs: Tensor, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step of particles that keep their member: obs [K, B, O], one row of particles for each of the K elites.

        `action` is [B, A], the same for every member. Sampled and clipped as in `step`; nothing terminates.

        Returns:
            next_obs [K, B, O] and reward [K, B].
        """
        prediction = self.dynamics.predict(obs, action.expand(len(obs), -1, -1), self.dynamics.elites)
        sample = self._sample(*moments(prediction), rng)
        return sample[..., :-1], sample[..., -1]

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor, rng: torch.Generator) -> Step:
        """One step from obs [B, O] with action [B, A]; pure, and decided by `rng` (on the device of obs) alone.

        No host synchronisation: no `.item()`, no Python branch on a tensor.

        Raises:
            RuntimeError: the simulator has an uncertainty but was never calibrated.
        """
        if self.uncertainty is not None and not self.calibrated:
            raise RuntimeError("the uncertainty has no unit yet: call calibrate(holdout) before the first step")
        dealt = deal(len(obs), self.dynamics.elites, rng)
        if self.uncertainty is None:
            mean, std = self._own(obs, action, dealt)
            uncertainty = obs.new_zeros(len(obs))
        else:
            mean, std, raw = self._own_among_all(obs, action, dealt, self.uncertainty)
            uncertainty = raw / self.uncertainty_scale
        sample = self._sample(mean, std, rng)
        next_obs, reward = sample[:, :-1], sample[:, -1]
        return Step(next_obs, reward, self._terminated(obs, action, next_obs, dealt, rng), uncertainty)

    def _sample(self, mean: Tensor, std: Tensor, rng: torch.Generator) -> Tensor:
        """Next observation and reward [..., O + 1] from a member's Gaussian, clipped to the log's widened range."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return torch.clamp(mean + std * self.recalibration.scale * noise, self.low, self.high)

    def _own(self, obs: Tensor, action: Tensor, deal: Deal) -> tuple[Tensor, Tensor]:
        """Mean and std [B, O + 1] of each row's own member; nothing else is computed."""
        chunk = chunk_rows(obs, len(deal.members))
        parts = [moments(self.dynamics.predict(obs[r], action[r], deal.members)) for r in deal.rows.split(chunk, 1)]
        mean, std = (torch.cat(p, 1).flatten(0, 1)[deal.slots] for p in zip(*parts, strict=True))
        return mean, std

    def _own_among_all(
        self, obs: Tensor, action: Tensor, deal: Deal, uncertainty: Uncertainty
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and std [B, O + 1] of each row's own member, and the raw uncertainty [B] of all members."""
        chunk = chunk_rows(obs, self.dynamics.members)
        parts = []
        for o, a, member in zip(obs.split(chunk), action.split(chunk), deal.member.split(chunk), strict=True):
            prediction = self.dynamics.predict(o, a)
            mean, std = moments(prediction)
            own = (member, torch.arange(len(o), device=o.device))
            parts.append((mean[own], std[own], uncertainty(prediction)))
        mean, std, raw = (torch.cat(p) for p in zip(*parts, strict=True))
        return mean, std, raw

    def _terminated(self, obs: Tensor, action: Tensor, next_obs: Tensor, deal: Deal, rng: torch.Generator) -> Tensor:
        """Whether the world ended, [B] bool: by rule, by the head of each row's member, or never."""
        if self.termination is not None:
            return self.termination(obs, action, next_obs)
        if not self.spec.terminals:
            return torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        rows = deal.rows
        chance = self.dynamics.termination(obs[rows], action[rows], next_obs[rows], deal.members)
        chance = chance.flatten()[deal.slots]
        return torch.rand(chance.shape, generator=rng, device=chance.device) < chance

    def plain(self) -> Self:
        """The same world, its tensors shared, without the uncertainty: faster, as each row asks its own member only."""
        world = copy.copy(self)
        world.uncertainty = None
        return world

    def state(self) -> dict[str, Any]:
        """Plain values and tensors from which `load` rebuilds this simulator; for `mbrl.files.save`.

        Raises:
            ValueError: the uncertainty or the termination is not reachable by a dotted path (a lambda, a closure).
        """
        return {
            "dynamics": self.dynamics.config,
            "spec": self.spec.to_dict(),
            "uncertainty": _path(self.uncertainty),
            "termination": _path(self.termination),
            "margin": self.margin,
            "quantile": self.quantile,
            "recalibration": self.method,
            "calibrated": self.calibrated,
            "starts": self.starts,
            "trusted_horizon": self.trusted_horizon,
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `state`; what older content lacks is None (start states, trusted horizon) or an identity.

        Raises:
            ValueError: a dotted path leads nowhere, or the spec is of another version.
            RuntimeError: the state dict does not fit the model that the configuration builds.
        """
        spec = Spec.from_dict(content["spec"])
        uncertainty, termination = (locate(content[k]) if content[k] else None for k in ("uncertainty", "termination"))
        with seeded(0, "load"):  # the random weights of a new model are about to be overwritten
            dynamics = build(content["dynamics"], Dynamics, spec)
        simulator = cls(
            dynamics,
            spec,
            uncertainty,
            termination,
            content["margin"],
            content["quantile"],
            content.get("recalibration", "scale"),
            content.get("starts"),
            content.get("trusted_horizon"),
        )
        identity = {} if "recalibration" in content else simulator.recalibration.state_dict(prefix="recalibration.")
        simulator.load_state_dict({**identity, **content["state_dict"]})
        simulator.calibrated = content["calibrated"]
        return simulator


def _path(function: Callable[..., Tensor] | None) -> str | None:
    if function is None:
        return None
    path = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
    try:
        found = locate(path)
    except ValueError:
        found = None
    if found is not function:
        raise ValueError(f"{function!r} cannot be saved: {path!r} does not lead to it. Give a function of a module")
    return path
