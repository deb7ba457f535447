"""The id `mbrl/Simulator-v0` in Gymnasium's registry, without loading Gymnasium for those who do not use it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

ID = "mbrl/Simulator-v0"


def announce() -> None:
    """Register the environment: now, if Gymnasium is loaded, else as soon as it is.

    `gym.make("mbrl:mbrl/Simulator-v0")` imports mbrl, which registers it. That alone fails where mbrl was imported
    before Gymnasium, since a second import of mbrl runs nothing; and Gymnasium has no plug-in entry points any more.
    """
    if "gymnasium" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Gymnasium())


class _Gymnasium:
    """Finds Gymnasium where it is, and registers the environment once it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register()

        setattr(spec.loader, "exec_module", load_and_register)  # noqa: B010 (mypy: a method is assigned to)
        return spec


def _register() -> None:
    from gymnasium.envs.registration import register, registry

    if ID not in registry:
        shells = "mbrl.simulator.envs"
        register(ID, entry_point=f"{shells}:SimulatorEnv", vector_entry_point=f"{shells}:SimulatorVectorEnv")
