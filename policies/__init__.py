"""Learners and their policies. They import torch and mbrl.core only."""

import mbrl

if getattr(mbrl, "__dist__", None) != "offline-mbrl":
    raise ImportError(
        f"the package `mbrl` at {getattr(mbrl, '__file__', None) or list(mbrl.__path__)} is not offline-mbrl's: the"
        " PyPI package of that name overwrites ours. Run: pip uninstall mbrl &&"
        " pip install --force-reinstall offline-mbrl"
    )

from policies.awac import AWAC
from policies.awr import AWR
from policies.bc import BC
from policies.bcq import BCQ
from policies.combo import COMBO
from policies.cql import CQL
from policies.decision_transformer import DecisionTransformer
from policies.discrete_bcq import DiscreteBCQ
from policies.edac import EDAC
from policies.iql import IQL
from policies.mcts import MCTS
from policies.mobile import MOBILE
from policies.perturbed import Perturbed
from policies.planning import Planning
from policies.rambo import RAMBO
from policies.rebrac import ReBRAC
from policies.sac import SAC
from policies.shooting import CEM, MPPI
from policies.td3bc import TD3BC

__all__ = [
    "AWAC",
    "AWR",
    "BC",
    "BCQ",
    "CEM",
    "COMBO",
    "CQL",
    "EDAC",
    "IQL",
    "MCTS",
    "MOBILE",
    "MPPI",
    "RAMBO",
    "SAC",
    "TD3BC",
    "DecisionTransformer",
    "DiscreteBCQ",
    "Perturbed",
    "Planning",
    "ReBRAC",
]
