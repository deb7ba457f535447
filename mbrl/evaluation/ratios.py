"""How much likelier a policy would have made each logged action than the logger did, and the weights that follow."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mbrl.core import Policy
from mbrl.evaluation.behaviour import Behaviour
from mbrl.evaluation.densities import Support
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.trajectories import Trajectories, discounts

CLIP = (-6.0, 2.0)  # of the log ratio of a step, as in google-research's policy_eval
FLOOR = 10.0  # effective episodes below which nothing is said
SLACK = 0.3  # by which the mean weight may differ from 1 before nothing is said
ROWS = 65_536  # a policy is asked about at once
ON_BOUND = 0.01  # share of the steps on a bound that a density without a mass there can be forgiven


class Ratios(NamedTuple):
    """Log likelihood ratios of the logged actions."""

    log: Tensor  # [n, T] float64, 0 beyond the end; -inf for an action that the policy never takes
    about: dict[str, Any]  # plain values: how they were made

    @classmethod
    def of(
        cls,
        policy: Policy,
        seen: Trajectories,
        behaviour: Behaviour | None = None,
        *,
        stochastic: bool = False,
        bandwidth: Tensor | None = None,
    ) -> Self:
        """The ratios of a policy to the logged propensities or, without any, to a behaviour model.

        What is judged is what is served, the mode. For Discrete actions it takes one choice and never another. For Box
        actions no logged action is exactly the policy's, so a normal kernel around the mode stands for it (Kallus and
        Zhou 2018, "Policy evaluation and optimization with continuous treatments"), limited by the bounds as in
        `mbrl.evaluation.densities`: the value is that of the policy with so much noise, and differs from the mode's by
        the order of the bandwidth squared. Its bandwidth per channel is Silverman's rule for the density of
        (logged action - mode) at 0: 1.06 std n^(-1 / (A + 4)), with the number of episodes for n.

        Args:
            policy: with a spec that fits the log (`mbrl.evaluation.trajectories.check_acts_on`).
            seen: the logged episodes.
            behaviour: fitted to the log; not used where the log has propensities.
            stochastic: judge the policy with its own noise (`log_prob`) in place of its mode.
            bandwidth: [A] of the kernel, in the action's units, in place of the rule.

        Raises:
            Refused: there are neither propensities nor a behaviour model; the policy has no `log_prob`; or too many
                logged actions lie on a bound for a policy that has a density only.
            ValueError: the bandwidth is not positive, or of another number of channels.
        """
        rows = seen.valid
        obs, action = seen.obs[rows], seen.action[rows]
        about: dict[str, Any] = {"stochastic": stochastic}
        support: Support | None = None
        with torch.no_grad():
            if seen.propensity is not None:
                logged, about["propensities"] = seen.propensity[rows], "logged"
            elif behaviour is not None:
                logged, about["propensities"] = _asked(behaviour.log_prob, obs, action), "fitted"
                support, about["behaviour_model"] = behaviour.support, behaviour.diagnostics
            else:
                raise Refused(
                    "importance weights need to know how likely the logged actions were, and the log has no"
                    " propensities: name their column as `propensity` in the schema, or fit a behaviour model"
                )
            if stochastic:
                target = _density(policy, obs, action, support)
            else:
                mode = _asked(lambda x, _: policy.act(x, None), obs, action)
                if policy.spec.discrete:
                    target = torch.where(mode.argmax(-1) == action.argmax(-1), 0.0, -torch.inf)
                else:
                    width = _bandwidth(action - mode, len(seen.obs), bandwidth)
                    about["bandwidth"] = width.tolist()
                    target = _kernel(policy, action, mode, width, support)
        log = torch.zeros(rows.shape, dtype=torch.float64, device=rows.device)
        log[rows] = target.double() - logged.double()
        return cls(log, about)


def _kernel(policy: Policy, action: Tensor, mode: Tensor, width: Tensor, support: Support | None) -> Tensor:
    """Log density of a normal around the mode, within the bounds."""
    if support is None:
        support = Support.plain(action.new_tensor(policy.spec.action_low), action.new_tensor(policy.spec.action_high))
    return support.log_normal(action, mode, width).sum(-1)


def _asked(function: Any, obs: Tensor, action: Tensor) -> Tensor:
    parts = zip(obs.split(ROWS), action.split(ROWS), strict=True)
    return torch.cat([function(x, a) for x, a in parts])


def _density(policy: Policy, obs: Tensor, action: Tensor, support: Support | None) -> Tensor:
    """Log density of the policy; 0 likelihood for what lies on a bound with mass, where it has none."""
    if policy.log_prob(obs[:1], action[:1]) is None:
        raise Refused(
            f"{type(policy).__name__} has no log_prob, and so no weights with stochastic=True: judge its mode"
        )
    target = _asked(policy.log_prob, obs, action)
    if support is None or policy.spec.discrete:
        return target
    at_low, at_high = support.on_mass(action)
    on = (at_low | at_high).any(-1)
    if float(on.double().mean()) > ON_BOUND:
        raise Refused(
            f"{float(on.double().mean()):.1%} of the logged actions lie on a bound, where the log has a probability and"
            " the policy a density: they cannot be compared. Judge the policy's mode (stochastic=False)"
        )
    return target.masked_fill(on, -torch.inf)


def _bandwidth(apart: Tensor, episodes: int, given: Tensor | None) -> Tensor:
    channels = apart.shape[-1]
    if given is None:
        width = 1.06 * apart.double().std(0, correction=0) * episodes ** (-1 / (channels + 4))
        return width.clamp_min(1e-6).to(apart.dtype)
    if given.shape != (channels,) or not bool((given > 0).all()):
        raise ValueError(f"bandwidth is {given.tolist()}, expected {channels} positive numbers, one an action channel")
    return given.to(apart)


class Weights(NamedTuple):
    """Cumulative likelihood ratios w_t = prod_{k <= t} rho_k; an ended episode keeps its weight."""

    log: Tensor  # [n, T] float64
    about: dict[str, Any]  # plain values, with the share of steps that were clipped

    @classmethod
    def of(cls, ratios: Ratios, seen: Trajectories, clip: tuple[float, float] | None = CLIP) -> Self:
        """Multiply the ratios of each step, clipped to [exp(clip[0]), exp(clip[1])]; one of 0 stays 0.

        Clipping keeps one unlikely step from deciding everything and biases what it touches; None leaves the ratios as
        they are.

        Raises:
            ValueError: a ratio is NaN or infinite, or the clip is not a rising pair around 0.
        """
        log = ratios.log.where(seen.valid, 0.0)
        if bool((log.isnan() | (log == torch.inf)).any()):
            raise ValueError("a log likelihood ratio is NaN or infinite: the policy or the propensities are not finite")
        about = {**ratios.about, "clip": None, "clipped_share": 0.0}
        if clip is not None:
            low, high = clip
            if not low < 0 < high:
                raise ValueError(f"clip is {clip}, expected the log ratio's limits below and above 0")
            limited = log.clamp(low, high).where(log > -torch.inf, log)
            about |= {"clip": [low, high], "clipped_share": float((limited != log)[seen.valid].double().mean())}
            log = limited
        return cls(log.cumsum(1), about)

    @property
    def scaled(self) -> Tensor:
        """w_t over the largest of its step, [n, T]: what self-normalised estimators need, without overflow."""
        largest = self.log.amax(0)
        return (self.log - largest.where(largest > -torch.inf, 0.0)).exp()

    def effective(self, gamma: float, per_decision: bool) -> tuple[float, float]:
        """Effective number of episodes, and the largest episode's share of the weight.

        Of the weights of a step it is (sum w)^2 / sum w^2 (Kong 1992). For whole episodes that of the last step counts;
        per decision the harmonic mean over steps weighted by gamma^t, so that steps that matter and rest on few
        episodes are not hidden by others. The share is the mean over the same steps.
        """
        scaled, discount = self.scaled, discounts(gamma, self.log)
        total = scaled.sum(0)
        ess = (total.square() / scaled.square().sum(0)).nan_to_num(0.0)
        share = (scaled.amax(0) / total).nan_to_num(1.0)
        if not per_decision:
            return float(ess[-1]), float(share[-1])
        return float(discount.sum() / (discount / ess).nan_to_num(0.0).sum()), float(discount @ share / discount.sum())

    def imbalance(self, gamma: float, per_decision: bool) -> float:
        """How far the mean weight is from its expectation: |1 - mean w|, of the same steps as in `effective`.

        Below 1, the episodes that carry the policy's value were not logged: the effective number cannot say so, because
        it is largest where the heavy episodes are all missing. Clipping and wrong propensities show here as well.
        """
        apart = (1 - (self.log.logsumexp(0) - math.log(len(self.log))).exp()).abs()
        if not per_decision:
            return float(apart[-1])
        discount = discounts(gamma, self.log)
        return float((discount * apart)[discount > 0].sum() / discount.sum())
