"""Models of the world. They import torch and mbrl.core only."""

import mbrl

if getattr(mbrl, "__dist__", None) != "offline-mbrl":
    raise ImportError(
        f"the package `mbrl` at {getattr(mbrl, '__file__', None) or list(mbrl.__path__)} is not offline-mbrl's: the"
        " PyPI package of that name overwrites ours. Run: pip uninstall mbrl &&"
        " pip install --force-reinstall offline-mbrl"
    )

from dynamics.deterministic import DeterministicEnsemble
from dynamics.ensemble import ProbabilisticEnsemble
from dynamics.recurrent import RecurrentEnsemble

__all__ = ["DeterministicEnsemble", "ProbabilisticEnsemble", "RecurrentEnsemble"]
