"""What the estimators of one log share: data, second simulator, start states, and what several of them fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import Pieces
from mbrl.data.sight import sight
from mbrl.evaluation.behaviour import Behaviour, fit_behaviour
from mbrl.evaluation.costs import FittedCost, fit_cost
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.fqe import FittedQ, fit_q
from mbrl.evaluation.grounds import Neighbours
from mbrl.evaluation.modelbased import Starts
from mbrl.evaluation.trajectories import Trajectories, discounted_returns
from mbrl.simulator.simulator import Simulator

MEMBERS = 8  # critics of an ensemble
FOLDS = {8: 4, 4: 2}  # by the episodes that there have to be: folds that critics are cross-fitted in

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Bench:
    """What all estimators of one log share. What several of them need is fitted once, when it is asked for first."""

    data: TransitionDataset
    episodes: Tensor  # [n] long, those that critics and behaviour models are fitted on, and that weights are of
    simulator: Simulator | None  # the second one, replaying `data`; None where there is none
    starts: Starts
    gamma: float  # of the kinds that discount
    level: float  # of each one-sided bound
    seed: int
    updates: int  # of the critics
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def coverage(self) -> float:
        """Of the two-sided interval whose ends are the one-sided bounds."""
        return 2 * self.level - 1

    @property
    def pieces(self) -> Pieces | None:
        """Of the episodes that the start states are of; None where all are independent."""
        return Pieces.of(self.data, self.data.episode[self.starts.rows])

    def critic(self, policy: Policy | None) -> FittedQ:
        """The fitted Q-functions of a policy, or (None) of the log's own.

        Raises:
            Refused: there are too few episodes to hold some out.
        """
        folds = self._folds("critics")
        return self._once(
            policy,
            lambda: fit_q(
                self.data,
                self.episodes,
                policy,
                gamma=self.gamma,
                members=MEMBERS,
                folds=folds,
                updates=self.updates,
                seed=self.seed,
            ),
        )

    def cost(self) -> FittedCost:
        """What transitions cost, learned from the log's column; raises as `fit_cost` does.

        Raises:
            Refused: there are too few episodes to hold some out.
        """
        settings = {"members": MEMBERS, "folds": self._folds("costs"), "updates": self.updates, "seed": self.seed}
        return self._once("cost", lambda: fit_cost(self.data, self.episodes, **settings))

    def behaviour(self) -> Behaviour:
        """The distribution of the logged actions; raises as `fit_behaviour` does."""
        return self._once("behaviour", lambda: fit_behaviour(self.data, self.episodes, seed=self.seed))

    def neighbours(self) -> Neighbours:
        """Which rows are odd for the log; raises as `Neighbours.of` does."""
        return self._once("neighbours", lambda: Neighbours.of(self.data, self.seed))

    def unread(self) -> int | None:
        """Observations in a row that the log asks for, beyond those in a row of it; None where its rows are too few.

        See `mbrl.data.sight`.
        """
        found = self._once("sight", lambda: sight(self.data, self.seed))
        return None if found is None else max(0, found.history - self.data.history)

    def returns(self, gamma: float) -> Tensor:
        """Of every logged episode, as far as it was logged, [n] float64."""
        return self._once(("returns", gamma), lambda: discounted_returns(self.data, gamma))

    def seen(self) -> Trajectories:
        """The episodes side by side."""
        return self._once("seen", lambda: Trajectories.of(self.data, self.episodes))

    def _folds(self, what: str) -> int:
        folds = next((count for least, count in FOLDS.items() if len(self.episodes) >= least), None)
        if folds is None:
            raise Refused(
                f"{what} need {min(FOLDS)} episodes to hold some out, and have {len(self.episodes)}: raise the last of"
                " data.split, or log more"
            )
        return folds

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self.made:
            self.made[key] = make()
        found: Made = self.made[key]
        return found
