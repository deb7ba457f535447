"""A learned world: a dynamics model, a termination and an uncertainty become one pure, seeded step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Self, get_args

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Memory, Prediction, Spec, Step, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.dealing import Deal, deal, own, own_among_all
from mbrl.simulator.filling import Filling
from mbrl.simulator.foreign import foreign_actions
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
from mbrl.simulator.replay import Replay
from mbrl.simulator.starts import check_starts
from mbrl.simulator.structure import Structure, residual

Uncertainty = Callable[[Prediction], Tensor]  # Prediction of all members -> [B]
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs -> bool [B]

CALIBRATION_ROWS = 8192  # predicted at once, which bounds the memory of a calibration


class Simulator(nn.Module):
    """Steps a learned world honestly: the reward carries no penalty, and the uncertainty stands beside it.

    Every row is stepped by one elite member, drawn anew at every step; rows are dealt to the elites at random and in
    equal numbers. The predicted channels of the next observation and the reward are samples of that member's Gaussian,
    clipped to the range of the log, widened, but never beyond physical bounds. Exogenous channels are replayed from a
    logged episode as they were.

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
        replay: logged episodes for those who have no log, where a channel is exogenous: start state k begins episode k.
        structure: (obs, action, next_obs) -> [..., C], what is known of the plant: it computes the channels `computed`
            of the next observation from the others, which it is given; see `mbrl.simulator.filling`.
        computed: these channels, which are not among `spec.predicted`, in the function's order.

    Raises:
        ValueError: margin or trusted_horizon is negative, quantile is not within (0, 1], there is no such
            recalibration, starts are not [S >= 1, O] within the range that predictions are clipped to, the replay does
            not go with them or with the spec, or a channel comes from two places or from none.
    """

    low: Tensor  # [O + 1] of next observation and reward: log's range and margin, and physical bounds where tighter
    high: Tensor  # [O + 1]
    targets: Tensor | None  # [P + 1] long: which of these a model predicts; None where it predicts all
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
        replay: Replay | None = None,
        structure: Structure | None = None,
        computed: Sequence[int] = (),
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
        self.recalibration = Recalibration(len(spec.targets))
        partial = len(spec.predicted) < spec.obs_dim
        self.register_buffer("targets", torch.tensor(spec.targets) if partial else None, persistent=False)
        low = torch.tensor([*spec.obs_low, spec.reward_low])
        high = torch.tensor([*spec.obs_high, spec.reward_high])
        floor = torch.tensor(spec.limits(spec.bound_low, -math.inf))
        ceiling = torch.tensor(spec.limits(spec.bound_high, math.inf))
        self.register_buffer("low", torch.maximum(low - margin * (high - low), floor))
        self.register_buffer("high", torch.minimum(high + margin * (high - low), ceiling))
        self.register_buffer("uncertainty_scale", torch.ones(()))
        self.filling = Filling(spec, replay, structure, computed, (self.low[:-1], self.high[:-1]))
        self.register_buffer("starts", None if starts is None else starts.clone(), persistent=False)
        check_starts(self.starts, spec, self.low[:-1], self.high[:-1], replay)

    @torch.no_grad()
    def calibrate(self, holdout: Batch) -> None:
        """Fit the intervals, and set the unit of the uncertainty, on held-out logged transitions [N, ...].

        That unit is the uncertainty's `quantile` on these rows. A quantile below a millionth of the log's own spread
        counts as that millionth, so that a model which knows no doubt (one deterministic member) has an uncertainty of
        zero instead of amplified rounding.

        Raises:
            ValueError: there are no rows, or a prediction, an uncertainty or a computed channel of some is not finite;
                the latter also for the same states under any other possible action.
        """
        rows = len(holdout.obs)
        if rows == 0:
            raise ValueError("no held-out transitions to calibrate the simulator on: hold out at least one episode")
        raw, parts, rng = [], [], generator(0, "calibrate")
        for chunk in zip(*(column.split(CALIBRATION_ROWS) for column in holdout), strict=True):
            batch = Batch(*chunk)
            everyone = self.dynamics.predict(batch.obs, batch.action)
            mean, std = (moment[self.dynamics.elites] for moment in moments(everyone, self.targets))
            parts.append(residuals(mean, std, outcome(batch, self.targets), self.unit(everyone)))
            if self.uncertainty is not None:
                raw.append(self.uncertainty(everyone))
            for action in (batch.action, foreign_actions(self.spec, len(batch.obs), rng).to(batch.obs.device)):
                self.structure_error(batch._replace(action=action))
        if raw:
            self.uncertainty_scale.copy_(self._unit(torch.cat(raw)))
        held = Residuals(*(torch.cat(column) for column in zip(*parts, strict=True)))
        self.recalibration.fit(held, self.unit(everyone), self.method)
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
        """Mean and std [B, P + 1] of the predicted channels and the reward, from the prediction of all members.

        `recalibration` turns it into intervals. The mean is not clipped to the log's range.
        """
        mean, std = (moment[self.dynamics.elites] for moment in moments(prediction, self.targets))
        return self.recalibration.forecast(mean, std, self.unit(prediction))

    def structure_error(self, rows: Batch) -> Tensor | None:
        """What the known structure computes minus what was logged, [N, C]; None without one.

        Raises:
            ValueError: it computes NaN or infinity for one of these transitions [N, ...].
        """
        filling = self.filling
        return (
            None
            if filling.structure is None
            else residual(filling.structure, filling.computed, self.spec.frame_dim, rows)
        )

    def unit(self, prediction: Prediction) -> Tensor:
        """The log's spread of what a model predicts, [P + 1]."""
        return prediction.scale if self.targets is None else prediction.scale[self.targets]

    def begin(self, obs: Tensor, rng: torch.Generator, rows: Tensor | None = None) -> Memory | None:
        """What rollouts from obs [B, O] carry beside the observation; None in a world that needs nothing.

        Args:
            obs: [B, O], where they begin.
            rng: draws logged episodes, from whose beginning exogenous channels are replayed where `rows` is None.
            rows: [B] long, the transitions of the replayed log that they begin with (see `replaying`; of a simulator
                that has been stored, those of its own sample). Exogenous channels go on from these very rows.

        Raises:
            ValueError: a channel is exogenous, and the simulator has nothing to replay it from.
        """
        return self.filling.begin(len(obs), rng, rows)

    def replaying(self, data: TransitionDataset, episodes: Tensor | None = None) -> Self:
        """The same world, its tensors shared, with exogenous channels replayed from (some episodes of) a log.

        `rows` of `begin` are then those of `data.rows(episodes)`, in this order. A world without exogenous channels is
        returned as it is.

        Raises:
            ValueError: the log has other exogenous channels.
        """
        if data.exogenous != self.spec.exogenous:
            raise ValueError(
                f"{data.id} has exogenous channels {list(data.exogenous)}, and the simulator was fitted with"
                f" {list(self.spec.exogenous)}: import the log with the same schema"
            )
        if not data.exogenous:
            return self
        world = copy.copy(self)
        world._modules = {**self._modules, "filling": self.filling.replaying(Replay.of(data, episodes))}
        return world

    def check_replays(self, obs: Tensor) -> None:
        """Refuse, where a channel is exogenous, if `obs` [n, O] are not those of the replayed transitions, in order.

        Raises:
            ValueError: they are not, so that rows of one are not rows of the other.
        """
        replay = self.filling.replay
        if not self.spec.exogenous:
            return
        if replay is None or not torch.equal(replay.values[replay.rows], obs[:, self.spec.exogenous]):
            raise ValueError(
                f"the simulator does not replay the {len(obs)} logged rows that it is to start from: give"
                " `simulator.replaying(data, episodes)`, with the episodes that the rows are of"
            )

    def first_rows(self, starts: Tensor) -> Tensor | None:
        """For `begin`: the transitions [B] with which the stored start states ([B] long) begin; None where unknown."""
        return None if self.filling.replay is None else self.filling.replay.first[starts]

    def ended(self, memory: Memory | None) -> Tensor | None:
        """Rows [B] bool whose replayed episode has no further row, None in a world that replays nothing.

        The world goes on there, but nobody knows how: whoever rolls out stops, or begins anew.
        """
        if memory is None or memory.cursor is None or self.filling.replay is None:
            return None
        return self.filling.replay.ended(memory.cursor)

    @torch.no_grad()
    def propagate(
        self, obs: Tensor, action: Tensor, rng: torch.Generator, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        """One step of particles that keep their member: obs [K, B, O], one row of particles for each of the K elites.

        `action` is [B, A], the same for every member, and so is `memory`. Sampled, clipped and filled in as in `step`;
        nothing terminates.

        Returns:
            next_obs [K, B, O], reward [K, B], and the memory for the next step.
        """
        action = action.expand(len(obs), -1, -1)
        prediction = self.dynamics.predict(obs, action, self.dynamics.elites)
        sample = self._sample(*moments(prediction, self.targets), rng)
        next_obs, memory = self.filling(obs, action, sample[..., :-1], memory)
        return next_obs, sample[..., -1], memory

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor, rng: torch.Generator, memory: Memory | None = None) -> Step:
        """One step from obs [B, O] with action [B, A]; pure, and decided by `rng` (on the device of obs) alone.

        `memory` is that of `begin` or of the step before. No host synchronisation: no `.item()`, no Python branch on a
        tensor.

        Raises:
            RuntimeError: the simulator has an uncertainty but was never calibrated.
            ValueError: the world needs a memory, and there is none.
        """
        if self.uncertainty is not None and not self.calibrated:
            raise RuntimeError("the uncertainty has no unit yet: call calibrate(holdout) before the first step")
        dealt = deal(len(obs), self.dynamics.elites, rng)
        if self.uncertainty is None:
            mean, std = own(self.dynamics, obs, action, dealt, self.targets)
            uncertainty = obs.new_zeros(len(obs))
        else:
            mean, std, raw = own_among_all(self.dynamics, obs, action, dealt, self.targets, self.uncertainty)
            uncertainty = raw / self.uncertainty_scale
        sample = self._sample(mean, std, rng)
        reward = sample[:, -1]
        next_obs, memory = self.filling(obs, action, sample[:, :-1], memory)
        return Step(next_obs, reward, self._terminated(obs, action, next_obs, dealt, rng), uncertainty, memory)

    def _sample(self, mean: Tensor, std: Tensor, rng: torch.Generator) -> Tensor:
        """Predicted channels and reward [..., P + 1] from a member's Gaussian, clipped to the log's widened range."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return self.clip(mean + std * self.recalibration.scale * noise)

    def clip(self, values: Tensor) -> Tensor:
        """Predicted channels and reward [..., P + 1] within the range that no prediction leaves."""
        if self.targets is None:
            return torch.clamp(values, self.low, self.high)
        return torch.clamp(values, self.low[self.targets], self.high[self.targets])

    def _terminated(self, obs: Tensor, action: Tensor, next_obs: Tensor, deal: Deal, rng: torch.Generator) -> Tensor:
        """Whether the world ended, [B] bool: by rule, by the head of each row's member, or never."""
        ruled = self.by_rule(obs, action, next_obs)
        if ruled is not None:
            return ruled
        if not self.spec.terminals:
            return torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        rows = deal.rows
        chance = self.dynamics.termination(obs[rows], action[rows], next_obs[rows], deal.members)
        chance = chance.flatten()[deal.slots]
        return torch.rand(chance.shape, generator=rng, device=chance.device) < chance

    def by_rule(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor | None:
        """Whether transitions [..., O] end the world by the rule, [...] bool; None where there is none.

        A rule is of the plant, and reads its plain observations: the newest ones of a window.
        """
        if self.termination is None:
            return None
        width = self.spec.frame_dim
        return self.termination(obs[..., :width], action, next_obs[..., :width])

    def plain(self) -> Self:
        """The same world, its tensors shared, without the uncertainty: faster, as each row asks its own member only."""
        world = copy.copy(self)
        world.uncertainty = None
        return world
