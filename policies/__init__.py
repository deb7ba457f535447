"""Learners and their policies. They import torch and mbrl.core only."""

import mbrl

if getattr(mbrl, "__dist__", None) != "offline-mbrl":
    raise ImportError(
        f"the package `mbrl` at {getattr(mbrl, '__file__', None) or list(mbrl.__path__)} is not offline-mbrl's: the"
        " PyPI package of that name overwrites ours. Run: pip uninstall mbrl &&"
        " pip install --force-reinstall offline-mbrl"
    )

from policies.bc import BC
from policies.combo import COMBO
from policies.mcts import MCTS
from policies.perturbed import Perturbed
from policies.planning import Planning
from policies.sac import SAC
from policies.shooting import CEM, MPPI

__all__ = ["BC", "CEM", "COMBO", "MCTS", "MPPI", "SAC", "Perturbed", "Planning"]
