"""For learners that ask the simulator for further successors of rows that were imagined or logged before."""

from __future__ import annotations

from mbrl.core import Spec, World


def check_spec(name: str, spec: Spec) -> None:
    """Refuse a log of which a single row does not say how the world goes on.

    Raises:
        ValueError: a channel is exogenous, so that its next value is only known along a logged episode.
    """
    if spec.exogenous:
        raise ValueError(
            f"{name} asks the simulator for other successors of single rows, and channels {list(spec.exogenous)} are"
            " exogenous, replayed along logged episodes: use policies.SAC with a penalty, or policies.COMBO"
        )


def check_world(name: str, world: World) -> None:
    """Refuse a world in which a single row does not say how it goes on.

    Raises:
        ValueError: its model remembers what was before a row.
    """
    if world.dynamics.memory:
        raise ValueError(
            f"{name} asks the simulator for other successors of single rows, and {type(world.dynamics).__name__}"
            " remembers what was before them: use dynamics.ProbabilisticEnsemble, with data.history if need be"
        )
