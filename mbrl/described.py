"""Modules that remember how they were built, and are built again from that by dotted path."""

from __future__ import annotations

import copy
import importlib
import inspect
from abc import ABC
from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from mbrl.spec import Spec

NOT_ON_PATH = "if that is a file of yours, set PYTHONPATH to the folder that it is in"


class Described(nn.Module, ABC):
    """A module that remembers how it was built, so that a checkpoint holds data and no pickled object."""

    config: dict[str, Any]  # {"class_path": dotted path, "init_args": plain values, `spec` left out}

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        bound = signature(cls).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        init_args = {
            k: list(v) if isinstance(v, tuple) else copy.deepcopy(v)  # YAML and JSON have no tuples
            for k, v in bound.arguments.items()
            if not isinstance(v, Spec)
        }
        config = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}
        object.__setattr__(self, "config", config)  # before nn.Module.__init__, whose __setattr__ needs its tables
        return self


def signature(cls: type[Described]) -> inspect.Signature:
    """The arguments of `cls(...)`, each by its name.

    The **kwargs of an __init__ stand for those arguments of the next __init__ in the MRO that it does not name itself:
    it has to pass them all on, as they are. A default is the first one on the way.

    Raises:
        TypeError: an __init__ takes *args.
    """
    named: dict[str, inspect.Parameter] = {}
    owners = [c for c in cls.__mro__ if issubclass(c, Described) and "__init__" in vars(c)]
    for owner in owners:
        _, *parameters = inspect.signature(owner.__init__).parameters.values()  # without self
        kinds = {p.kind: p.name for p in parameters}
        if name := kinds.get(inspect.Parameter.VAR_POSITIONAL):
            raise TypeError(f"{owner.__qualname__}.__init__ takes *{name}, which no YAML can name: give it names")
        for p in parameters:
            if p.kind is not inspect.Parameter.VAR_KEYWORD:
                named.setdefault(p.name, p if owner is owners[0] else p.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return inspect.Signature(list(named.values()))


def build(config: Mapping[str, Any], base: type[Described], spec: Spec) -> Any:
    """Instantiate the plug-in that `config` names by dotted path.

    Raises:
        ValueError: `config` has no class_path, the path leads nowhere or to something that is not a concrete subclass
            of `base`, or an init_arg is unknown.
    """
    if "class_path" not in config:
        raise ValueError(f"the configuration of a {base.__name__} has no class_path, only {sorted(config)}")
    path, init_args = config["class_path"], config.get("init_args", {})
    cls = locate(path)
    if not (isinstance(cls, type) and issubclass(cls, base)) or inspect.isabstract(cls):
        raise ValueError(
            f"class_path {path!r} is not a subclass of {base.__module__}.{base.__name__} that can be built"
        )
    try:
        signature(cls).bind(spec, **init_args)
    except TypeError as error:
        raise ValueError(f"init_args {sorted(init_args)} do not fit {path}: {error}") from error
    plugin: Any = cls  # its own signature has been checked
    return plugin(spec, **init_args)


def locate(path: str) -> Any:
    """The object behind a dotted path such as `dynamics.uncertainty.max_aleatoric`.

    Raises:
        ValueError: there is no such module or attribute.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        unknown = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        advice = f"; {NOT_ON_PATH}" if unknown else ""
        raise ValueError(f"{path!r} is not an importable dotted path: {error}{advice}") from error
