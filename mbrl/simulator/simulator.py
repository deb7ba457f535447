"""A learned world: a dynamics model, a termination and an uncertainty become one pure, seeded step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec, Step, build, locate, seeded
from mbrl.simulator.recalibration import FLOOR, Forecast, Method, Recalibration, Residuals, residuals

Uncertainty = Callable[[Prediction], Tensor]  # Prediction of all members -> [B]
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs -> bool [B]

CACHE_ROWS = 8192  # rows times members predicted at once on a CPU: the activations then stay in its cache
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

    Raises:
        ValueError: margin is negative, quantile is not within (0, 1], or there is no such recalibration.
    """

    low: Tensor  # [O + 1] of next observation and reward, log's range and margin
    high: Tensor  # [O + 1]
    uncertainty_scale: Tensor  # [] raw uncertainty that counts as 1

    def __init__(
        self,
        dynamics: Dynamics,
        spec: Spec,
        uncertainty: Uncertainty | None = None,
        termination: Termination | None = None,
        margin: float = 0.1,
        quantile: float = 0.95,
        recalibration: Method = "isotonic",
    ) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin is {margin}, expected a fraction of the log's range, 0 or more")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile is {quantile}, expected more than 0 and at most 1")
        if recalibration not in get_args(Method):
            raise ValueError(f"recalibration is {recalibration!r}, expected one of {', '.join(get_args(Method))}")
        self.dynamics = dynamics
        self.spec = spec
        self.uncertainty = uncertainty
        self.termination = termination
        self.margin = margin
        self.quantile = quantile
        self.method = recalibration
        self.calibrated = False
        self.trusted_horizon: int | None = None  # steps; what the report card found
        self.recalibration = Recalibration(spec.obs_dim + 1)
        low = torch.tensor([*spec.obs_low, spec.reward_low])
        high = torch.tensor([*spec.obs_high, spec.reward_high])
        self.register_buffer("low", low - margin * (high - low))
        self.register_buffer("high", high + margin * (high - low))
        self.register_buffer("uncertainty_scale", torch.ones(()))

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

    def without_uncertainty(self) -> Simulator:
        """The same world, stepped several times faster because each row asks its own member only."""
        plain = Simulator(self.dynamics, self.spec, None, self.termination, self.margin, self.quantile, self.method)
        plain.recalibration, plain.calibrated = self.recalibration, self.calibrated
        plain.trusted_horizon = self.trusted_horizon
        return plain

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor, rng: torch.Generator) -> Step:
        """One step from obs [B, O] with action [B, A]; pure, and decided by `rng` (on the device of obs) alone.

        No host synchronisation: no `.item()`, no Python branch on a tensor.

        Raises:
            RuntimeError: the simulator has an uncertainty but was never calibrated.
        """
        if self.uncertainty is not None and not self.calibrated:
            raise RuntimeError("the uncertainty has no unit yet: call calibrate(holdout) before the first step")
        deal = _deal(len(obs), self.dynamics.elites, rng)
        if self.uncertainty is None:
            mean, std = self._own(obs, action, deal)
            uncertainty = obs.new_zeros(len(obs))
        else:
            mean, std, raw = self._own_among_all(obs, action, deal, self.uncertainty)
            uncertainty = raw / self.uncertainty_scale
        sample = self._sample(mean, std, rng)
        next_obs, reward = sample[:, :-1], sample[:, -1]
        return Step(next_obs, reward, self._terminated(obs, action, next_obs, deal, rng), uncertainty)

    def _sample(self, mean: Tensor, std: Tensor, rng: torch.Generator) -> Tensor:
        """Next observation and reward [..., O + 1] from a member's Gaussian, clipped to the log's widened range."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return torch.clamp(mean + std * self.recalibration.scale * noise, self.low, self.high)

    def _own(self, obs: Tensor, action: Tensor, deal: _Deal) -> tuple[Tensor, Tensor]:
        """Mean and std [B, O + 1] of each row's own member; nothing else is computed."""
        chunk = _chunk(obs, len(deal.members))
        parts = [moments(self.dynamics.predict(obs[r], action[r], deal.members)) for r in deal.rows.split(chunk, 1)]
        mean, std = (torch.cat(p, 1).flatten(0, 1)[deal.slots] for p in zip(*parts, strict=True))
        return mean, std

    def _own_among_all(
        self, obs: Tensor, action: Tensor, deal: _Deal, uncertainty: Uncertainty
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and std [B, O + 1] of each row's own member, and the raw uncertainty [B] of all members."""
        chunk = _chunk(obs, self.dynamics.members)
        parts = []
        for o, a, member in zip(obs.split(chunk), action.split(chunk), deal.member.split(chunk), strict=True):
            prediction = self.dynamics.predict(o, a)
            mean, std = moments(prediction)
            own = (member, torch.arange(len(o), device=o.device))
            parts.append((mean[own], std[own], uncertainty(prediction)))
        mean, std, raw = (torch.cat(p) for p in zip(*parts, strict=True))
        return mean, std, raw

    def _terminated(self, obs: Tensor, action: Tensor, next_obs: Tensor, deal: _Deal, rng: torch.Generator) -> Tensor:
        """Whether the world ended, [B] bool: by rule, by the head of each row's member, or never."""
        if self.termination is not None:
            return self.termination(obs, action, next_obs)
        if not self.spec.terminals:
            return torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        rows = deal.rows
        chance = self.dynamics.termination(obs[rows], action[rows], next_obs[rows], deal.members)
        chance = chance.flatten()[deal.slots]
        return torch.rand(chance.shape, generator=rng, device=chance.device) < chance

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
            "trusted_horizon": self.trusted_horizon,
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `state`.

        Raises:
            ValueError: a dotted path leads nowhere, or the spec is of another version.
            RuntimeError: the state dict does not fit the model that the configuration builds.
        """
        spec = Spec.from_dict(content["spec"])
        uncertainty, termination = (locate(content[k]) if content[k] else None for k in ("uncertainty", "termination"))
        with seeded(0, "load"):  # the random weights of a new model are about to be overwritten
            dynamics = build(content["dynamics"], Dynamics, spec)
        settings = (content[k] for k in ("margin", "quantile", "recalibration"))
        simulator = cls(dynamics, spec, uncertainty, termination, *settings)
        simulator.load_state_dict(content["state_dict"])
        simulator.calibrated, simulator.trusted_horizon = content["calibrated"], content["trusted_horizon"]
        return simulator


class _Deal(NamedTuple):
    """Rows dealt to members in equal numbers. K C may exceed B: the last slots then repeat rows that nobody reads."""

    members: Tensor  # [K]
    rows: Tensor  # [K, C] the rows of each member
    slots: Tensor  # [B] where in the flattened `rows` each row is
    member: Tensor  # [B] the member of each row


def _deal(count: int, elites: Tensor, rng: torch.Generator) -> _Deal:
    device, share = elites.device, -(-count // len(elites))
    members = elites[torch.randperm(len(elites), generator=rng, device=device)]
    order = torch.randperm(count, generator=rng, device=device)
    rows = order[torch.arange(len(elites) * share, device=device) % count].view(len(elites), share)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(count, device=device)
    return _Deal(members, rows, slots, members[slots // share])


def moments(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Mean and std of (next observation, reward), [..., O + 1] each."""
    mean = torch.cat([prediction.obs, prediction.reward.unsqueeze(-1)], -1)
    return mean, torch.cat([prediction.obs_std, prediction.reward_std.unsqueeze(-1)], -1)


def outcome(batch: Batch) -> Tensor:
    """What happened: next observation and reward, [..., O + 1]."""
    return torch.cat([batch.next_obs, batch.reward.unsqueeze(-1)], -1)


def _chunk(obs: Tensor, members: int) -> int:
    """Rows per member to predict at once: on a CPU few enough for its cache, elsewhere all of them."""
    return max(1, CACHE_ROWS // members) if obs.device.type == "cpu" else max(1, len(obs))


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
