"""A learner whose policy plans in the simulator, over the actor and the critics that another learner improves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World, build, seeded
from policies.networks import Critics
from policies.outlook import Outlook
from policies.planner import Planner

LONGEST = 20  # steps that are planned without being asked for: beyond, critics know more than a plan for its cost


class Planning(Learner):
    """Another learner, and a planner over its actor and critics that is registered in the place of its actor.

    Learning is the other learner's alone; imagined rollouts follow its actor, which is quicker. The planner looks ahead
    in a copy of the simulator that the learner enters, and what is registered holds that copy: it is served, judged and
    loaded without the simulator.

    Args:
        spec: of the log.
        learner: configuration of the other learner, {"class_path": ..., "init_args": {...}}: one with critics.
        planner: configuration of `policies.CEM`, `policies.MPPI` or `policies.MCTS`, without an outlook.
        horizon: steps planned ahead; None: as many as the simulator's report card trusts, from 1 to 20.
        penalty: what uncertainty 1 costs, in units of the log's reward spread; see `Outlook`.

    Raises:
        ValueError: an argument out of range, the other learner has no critics, or the planner is for the other kind of
            actions.
    """

    plans = True

    def __init__(
        self,
        spec: Spec,
        learner: dict[str, Any],
        planner: dict[str, Any],
        horizon: int | None = None,
        penalty: float = 1.0,
    ) -> None:
        super().__init__(spec)
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon is {horizon}, expected at least 1, or none for as far as the report card trusts")
        if not penalty >= 0:
            raise ValueError(f"penalty is {penalty}, expected 0 or more")
        self.horizon, self.penalty = horizon, penalty
        blind: Planner = build(planner, Planner, spec)
        self.inner: Learner = build(learner, Learner, spec)
        _agent(self.inner)
        self.optimizers = self.inner.optimizers
        self.imagines, self.remodels, self.grounded = self.inner.imagines, self.inner.remodels, self.inner.grounded
        self._planner = [blind]  # in a list, as no submodule: its weights are the inner learner's and the simulator's

    @property
    def policy(self) -> Policy:
        """The planner, which follows the inner learner's weights; before `enter` it has nowhere to plan in."""
        return self._planner[0]

    @property
    def rehearsing(self) -> Policy:
        return self.inner.rehearsing

    @property
    def studies(self) -> bool:
        return self.inner.studies

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        return self.inner.study(real, ends)

    def enter(self, simulator: World) -> World:
        """Plan in a copy of `simulator`, and rehearse where the inner learner does.

        Raises:
            ValueError: no horizon was given and no report card has one, or as `Outlook.over`.
        """
        horizon = self.horizon
        if horizon is None:
            if simulator.trusted_horizon is None:
                raise ValueError("horizon is none, and no report card says how far to trust the simulator: give one")
            horizon = min(max(1, simulator.trusted_horizon), LONGEST)
        agent = _agent(self.inner)
        with seeded(0, "planner"):  # networks are made whose weights nobody reads
            outlook = Outlook.over(
                simulator,
                self.inner.policy,
                agent.critics,
                discount=agent.discount,
                horizon=horizon,
                penalty=self.penalty,
            )
            self._planner = [self._planner[0].seeing(outlook)]
        return self.inner.enter(simulator)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        return self.inner.update(real, imagined, rng, simulator)


def _agent(learner: Learner) -> Any:
    """What has the critics and the discount of a learner: its `agent`, or itself.

    Raises:
        ValueError: nothing has.
    """
    agent: Any = getattr(learner, "agent", learner)
    if not isinstance(getattr(agent, "critics", None), Critics) or not hasattr(agent, "discount"):
        raise ValueError(
            f"{type(learner).__name__} has no critics and discount, of its own or of its agent, to value the end of a"
            " plan with: choose a learner that has, such as policies.SAC"
        )
    return agent
