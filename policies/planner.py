"""What all planners share: an outlook that may be given later, and rows in parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mbrl.core import Policy, Spec, build
from policies.outlook import Outlook

AT_ONCE = 65_536  # predictions of one member each, of which a search makes this many at a time: it bounds the memory


class Planner(Policy):
    """A policy that searches a simulator for its action, anew in every call: it keeps nothing from one to the next.

    Plans are therefore not shifted from the step before, as controllers in a loop do; a search begins with what the
    prior policy would do. The mode is deterministic, and of each row alone: candidates are made of noise that is drawn
    once and kept with the weights, the same for all rows and all calls.

    Args:
        spec: of the log.
        discrete: the kind of actions that it is for.
        outlook: configuration of an `Outlook`, the spec left out; None: nowhere to look yet, see `seeing`.

    Raises:
        ValueError: the log's actions are of the other kind, or the outlook cannot be built.
    """

    other: ClassVar[str]  # what to use instead, for the other kind of actions

    def __init__(self, spec: Spec, discrete: bool, outlook: dict[str, Any] | None) -> None:
        super().__init__(spec)
        if spec.discrete != discrete:
            kinds = ("Box", "Discrete")
            raise ValueError(
                f"{type(self).__name__} plans in {kinds[discrete]} spaces, and this log's actions are"
                f" {kinds[spec.discrete]}: use {self.other}"
            )
        self.register_module("_outlook", None if outlook is None else build(outlook, Outlook, spec))

    @property
    def outlook(self) -> Outlook:
        """What it looks ahead with.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self._outlook, Outlook):
            raise ValueError(
                f"{type(self).__name__} has no simulator to plan in: policies.Planning, the learner, gives it one"
            )
        return self._outlook

    def seeing(self, outlook: Outlook) -> Self:
        """A planner with the same settings that looks ahead with this very outlook."""
        init_args = {**self.config["init_args"], "outlook": outlook.config}
        made = type(self)(self.spec, **init_args)
        made._outlook = outlook
        return made.to(outlook.bounds.centre.device).eval()

    @property
    @abstractmethod
    def candidates_at_once(self) -> int:
        """How many steps the search foresees side by side for one row."""

    def _in_parts(self, search: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        """search(obs [B, O]) -> [B, ...] for as many rows at a time as memory is meant for."""
        if torch.compiler.is_exporting():  # the program is for any number of rows: whoever calls it bounds them
            return search(obs)
        members = self.outlook.foresight.dynamics.members
        size = max(1, AT_ONCE // (members * self.candidates_at_once))
        with torch.no_grad():
            return torch.cat([search(part) for part in obs.split(size)])
