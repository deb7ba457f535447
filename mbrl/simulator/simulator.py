"""A learned world: a dynamics model, a termination and an uncertainty become one pure, seeded step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics, Foresight, Memory, Prediction, Spec, Step, World
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.calibration import check_settings, check_structure, doubt_unit, measure
from mbrl.simulator.dealing import deal, own, own_among_all
from mbrl.simulator.ends import Ends, Termination
from mbrl.simulator.filling import Filling
from mbrl.simulator.holding import Stated, clipped_log_density
from mbrl.simulator.ranges import ranges
from mbrl.simulator.recalibration import Forecast, Method, Recalibration, moments, outcome, unit
from mbrl.simulator.recall import Recall, moved_on, recalling, state_of
from mbrl.simulator.replay import Replay
from mbrl.simulator.starts import check_rows, check_starts, remembering, states_at
from mbrl.simulator.structure import Structure, residual

Uncertainty = Callable[[Prediction], Tensor]  # Prediction of all members -> [B]


class Simulator(World):
    """Steps a learned world honestly: the reward carries no penalty, and the uncertainty stands beside it.

    Every row is stepped by one elite member, drawn anew at every step; rows are dealt to the elites at random, a like
    share to each. The predicted channels of the next observation and the reward are samples of that member's Gaussian,
    clipped to the range of the log, widened, but never beyond physical bounds; a channel of `Spec.resting` first draws
    whether it keeps its value, or begins anew. Exogenous channels are replayed from a logged episode as they were.

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

    low: Tensor  # [O + 1] of next observation and reward: see `ranges`
    high: Tensor  # [O + 1]
    targets: Tensor | None  # [P + 1] long: which of these a model predicts; None where it predicts all
    uncertainty_scale: Tensor  # [] raw uncertainty that counts as 1
    starts: Tensor | None  # [S, O]
    recall: Recall | None  # of the log behind the simulator, where the model remembers

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
        check_settings(margin, quantile, recalibration, trusted_horizon)
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
        for name, bound in zip(("low", "high"), ranges(spec, margin), strict=True):
            self.register_buffer(name, bound)
        self.register_buffer("uncertainty_scale", torch.ones(()))
        self.filling = Filling(spec, replay, structure, computed, (self.low[:-1], self.high[:-1]))
        self.register_buffer("starts", None if starts is None else starts.clone(), persistent=False)
        self.register_module("recall", None)
        check_starts(self.starts, spec, self.low[:-1], self.high[:-1], replay)

    @torch.no_grad()
    def calibrate(self, holdout: Batch, episode: Tensor | None = None) -> None:
        """Fit the intervals, and set the unit of the uncertainty, on held-out logged transitions [N, ...].

        That unit is the uncertainty's `quantile` on these rows. A quantile below a millionth of the log's own spread
        counts as that millionth, so that a model which knows no doubt (one deterministic member) has an uncertainty of
        zero instead of amplified rounding.

        Args:
            holdout: [N, ...].
            episode: [N] long, the episode of each row, which a model that remembers is run along; the rows of an
                episode are next to each other and in time order. Others do not read it.

        Raises:
            ValueError: there are no rows, or a prediction, an uncertainty or a computed channel of some is not finite;
                the latter also for the same states under any other possible action. The model remembers, and `episode`
                is not given, or not as above.
        """
        held = measure(self.ends, holdout, episode, self.targets, self.uncertainty)
        check_structure(self.structure_error, self.spec, holdout)
        if held.doubt is not None:
            self.uncertainty_scale.copy_(doubt_unit(held.doubt, self.quantile))
        self.recalibration.fit(held.residuals, held.unit, self.method)
        self.calibrated = True

    @torch.no_grad()
    def recalibrated(self, holdout: Batch, episode: Tensor | None = None) -> Self:
        """The same world, its tensors shared, with intervals fitted to other transitions; see `calibrate`."""
        held = measure(self.ends, holdout, episode, self.targets, None)
        fitted = Recalibration(len(self.spec.targets)).to(self.low.device)
        fitted.fit(held.residuals, held.unit, self.method)
        world = copy.copy(self)
        world._modules = {**self._modules, "recalibration": fitted}
        return world

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
        return unit(prediction, self.targets)

    def begin(self, obs: Tensor, rng: torch.Generator, rows: Tensor | None = None) -> Memory | None:
        """What rollouts from obs [B, O] carry beside the observation; None in a world that needs nothing.

        Args:
            obs: [B, O], where they begin.
            rng: draws logged episodes, from whose beginning exogenous channels are replayed where `rows` is None.
            rows: [B] long, the transitions of the log behind the simulator (see `replaying`) that they begin with.
                Exogenous channels go on from these very rows, and a model that remembers knows what was before them.
                None: to such a model obs are the beginnings of episodes.

        Raises:
            ValueError: a channel is exogenous, and the simulator has nothing to replay it from; or the model remembers,
                and there is no log behind the simulator that says what was before `rows`.
        """
        hidden = states_at(rows, len(obs), self.dynamics, self.recall)
        return remembering(self.filling.begin(len(obs), rng, rows), hidden)

    def start(self, count: int, rng: torch.Generator) -> tuple[Tensor, Memory | None]:
        """Stored start states [count, O], drawn with replacement, and what rollouts from these beginnings carry.

        Raises:
            ValueError: the simulator carries no start states, or nothing to replay exogenous channels from.
        """
        if self.starts is None:
            raise ValueError(
                "this simulator carries no start states: give reset(options={'obs': ...}), or register it anew with"
                " `mbrl run`, which keeps a sample of the log's"
            )
        chosen = torch.randint(len(self.starts), (count,), generator=rng, device=self.starts.device)
        replay = self.filling.replay
        memory = self.filling.begin(count, rng, None if replay is None else replay.first[chosen])
        return self.starts[chosen], remembering(memory, self.dynamics.initial(count))

    def replaying(self, data: TransitionDataset, episodes: Tensor | None = None) -> Self:
        """The same world, its tensors shared, with (some episodes of) a log behind it, that `rows` of `begin` are of.

        These are those of `data.rows(episodes)`, in this order. Exogenous channels are replayed from it, and start
        states are the beginnings of its episodes then; a model that remembers is run along it when it is first asked
        for rows. A world that needs neither is returned as it is.

        Raises:
            ValueError: the log has other exogenous channels.
        """
        if data.exogenous != self.spec.exogenous:
            raise ValueError(
                f"{data.id} has exogenous channels {list(data.exogenous)}, and the simulator was fitted with"
                f" {list(self.spec.exogenous)}: import the log with the same schema"
            )
        if not data.exogenous and not self.dynamics.memory:
            return self
        world = copy.copy(self)
        world._modules = dict(self._modules)
        if data.exogenous:
            world.filling = self.filling.replaying(Replay.of(data, episodes))
            world._buffers = {**self._buffers, "starts": data.starts if episodes is None else data.starts[episodes]}
        rows = None if episodes is None else data.rows(episodes)
        world.recall = recalling(self.dynamics, data.batch(rows), data.episode if rows is None else data.episode[rows])
        return world

    def check_replays(self, obs: Tensor) -> None:
        """Refuse, where rollouts need the log, if `obs` [n, O] are not those of the transitions behind it, in order.

        Raises:
            ValueError: they are not, so that rows of one are not rows of the other.
        """
        check_rows(obs, self.spec, self.filling.replay, self.dynamics, self.recall)

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

        `action` is [B, A], the same for every member, and so are replayed channels; in `memory` every member remembers
        its own particles. Sampled, clipped and filled in as in `step`; nothing terminates, and of what an end
        would pay a step has its share.

        Returns:
            next_obs [K, B, O], reward [K, B], and the memory for the next step.
        """
        action, elites = action.expand(len(obs), -1, -1), self.dynamics.elites
        hidden = state_of(self.dynamics, memory)
        states = None if hidden is None else hidden.index_select(1, elites).transpose(0, 1)
        prediction = self.dynamics.predict(obs, action, elites, states)
        sample = self._sample(Stated.of(prediction, self.targets), rng)
        next_obs, memory = self.filling(obs, action, sample[..., :-1], memory)
        going = prediction._replace(reward=sample[..., -1])
        reward = self.ends.settled(going, obs, action, next_obs, elites, states).reward
        return next_obs, self.clip_reward(reward), moved_on(self.dynamics, obs, action, memory, elites)

    def log_density(self, rows: Batch) -> Tensor:
        """Log density [B] of transitions [B, ...]: of the predicted channels and the reward, as `step` samples them.

        That is the elites' equal mixture, in the environment's units; of a value on the bound that it was clipped to,
        the probability of lying there or beyond. Gradients pass to the model's weights. A model without a spread has no
        density: the result is not finite.

        Raises:
            ValueError: the model remembers, and single rows do not say what.
        """
        hidden = state_of(self.dynamics, None)
        prediction = self.dynamics.predict(rows.obs, rows.action, self.dynamics.elites, hidden)
        stated = Stated.of(prediction, self.targets)
        low, high = self.reach
        density = stated.log_density(outcome(rows, self.targets), low, high, self.recalibration.scale)
        pay = self.dynamics.end_pay(rows.obs, rows.action, rows.next_obs, self.dynamics.elites, hidden)
        if pay is not None:
            ended = clipped_log_density(rows.reward, *pay, low[-1], high[-1])
            last = torch.where(rows.terminated, ended, density[..., -1])
            density = torch.cat([density[..., :-1], last.unsqueeze(-1)], -1)
        of_member = density.sum(-1)
        return of_member.logsumexp(0) - math.log(len(of_member))

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
        hidden, dealt = state_of(self.dynamics, memory), deal(len(obs), self.dynamics.elites, rng)
        if self.uncertainty is None:
            stated = own(self.dynamics, obs, action, dealt, self.targets, hidden)
            uncertainty = obs.new_zeros(len(obs))
        else:
            stated, raw = own_among_all(self.dynamics, obs, action, dealt, self.targets, hidden, self.uncertainty)
            uncertainty = raw / self.uncertainty_scale
        sample = self._sample(stated, rng)
        next_obs, memory = self.filling(obs, action, sample[:, :-1], memory)
        reward, terminated = self.ends.drawn(obs, action, next_obs, sample[:, -1], dealt, hidden, self.clip_reward, rng)
        return Step(next_obs, reward, terminated, uncertainty, moved_on(self.dynamics, obs, action, memory))

    def _sample(self, stated: Stated, rng: torch.Generator) -> Tensor:
        """Predicted channels and reward [..., P + 1] from what members state, clipped to the log's widened range."""
        return self.clip(stated.sample(self.recalibration.scale, rng))

    @property
    def reach(self) -> tuple[Tensor, Tensor]:
        """The range of predicted channels and reward, [P + 1] each, that no prediction leaves."""
        if self.targets is None:
            return self.low, self.high
        return self.low[self.targets], self.high[self.targets]

    def clip(self, values: Tensor) -> Tensor:
        """Predicted channels and reward [..., P + 1] within that range."""
        return torch.clamp(values, *self.reach)

    def clip_reward(self, reward: Tensor) -> Tensor:
        """Rewards [...] within the log's widened range."""
        return torch.clamp(reward, self.low[-1], self.high[-1])

    @property
    def ends(self) -> Ends:
        """When this world ends, and what that pays."""
        return Ends(self.dynamics, self.spec, self.termination)

    def foresight(self) -> Foresight:
        """The expected step, as a copy that can be built into a policy; see `mbrl.simulator.foresight.Expectation`."""
        from mbrl.simulator.foresight import Expectation  # which is built of simulators

        return Expectation.of(self)

    def plain(self) -> Self:
        """The same world, its tensors shared, without the uncertainty: faster, as each row asks its own member only."""
        world = copy.copy(self)
        world._modules = dict(self._modules)  # an uncertainty may be one of them
        world.uncertainty = None
        return world
