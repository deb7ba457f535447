"""The arrows of the house: who may import whom, and which file is the one door to a library."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mbrl", "dynamics", "policies")
FILES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
DOORS = {  # library: the only folders or files that may import it
    "minari": ("mbrl/data/minari.py",),
    "h5py": ("mbrl/data/minari.py",),
    "gymnasium": (
        "mbrl/environments.py",
        "mbrl/playing.py",
        "mbrl/simulator/envs.py",
        "mbrl/simulator/wrappers.py",
        "mbrl/simulator/registration.py",
    ),
    "lightning": ("mbrl/training/",),
    "mlflow": ("mbrl/registry/", "mbrl/serving/artifact.py"),
    "matplotlib": ("mbrl/report/",),
}
PLUGINS = ("dynamics", "policies")


def imported(source: str, path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any depth, relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(path.parent.parts)[: len(path.parent.parts) - node.level + 1] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def offences(source: str, path: Path) -> list[str]:
    """The imports of a file that go against an arrow or past a door."""
    return [name for name in imported(source, path) if not allowed(name, path.as_posix())]


def allowed(name: str, path: str) -> bool:
    room, top = path.split("/")[0], name.split(".")[0]
    if room in PLUGINS:
        core = f"{name}.".startswith("mbrl.core.")
        marker = name == "mbrl" and path == f"{room}/__init__.py"  # it checks that mbrl is ours
        return core or marker or top in {"torch", room} or top in sys.stdlib_module_names
    if top in PLUGINS:
        return False
    return top not in DOORS or path.startswith(DOORS[top])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_import_follows_the_arrows(path: Path) -> None:
    assert offences((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("dynamics/a.py", "import torch.nn, math, mbrl.core\nfrom mbrl.core import Spec\nfrom .b import c", []),
        ("dynamics/a.py", "import numpy as np", ["numpy"]),
        ("dynamics/a.py", "from policies.sac import SAC", ["policies.sac.SAC"]),
        ("dynamics/a.py", "from mbrl import files", ["mbrl.files"]),
        ("dynamics/a.py", "from mbrl.data.minari import load", ["mbrl.data.minari.load"]),
        ("policies/a.py", "import mbrl", ["mbrl"]),
        ("policies/__init__.py", "import mbrl", []),
        ("mbrl/training/policy.py", "def f():\n    from dynamics import x", ["dynamics.x"]),
        ("mbrl/training/policy.py", "from lightning.fabric import Fabric", []),
        ("mbrl/stages.py", "import lightning as L", ["lightning"]),
        ("mbrl/data/tables.py", "from . import minari\nimport minari", ["minari"]),
        ("mbrl/data/sub/x.py", "from ..minari import h5py", []),
        ("mbrl/serving/server.py", "import mlflow.pyfunc", ["mlflow.pyfunc"]),
        ("mbrl/serving/artifact.py", "import mlflow.pyfunc", []),
    ],
)
def test_the_rule_itself_tells_right_from_wrong(path: str, source: str, found: list[str]) -> None:
    assert offences(source, Path(path)) == found


HEAVY = ("torch", "lightning", "mlflow", "matplotlib", "pandas", "sklearn", "gymnasium", "minari")
LOADED = f"import sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"


def python(program: str, path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter with nothing but `path` before its own modules."""
    command = [sys.executable, "-P", *flags, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


def test_importing_mbrl_is_light() -> None:
    done = python(f"import mbrl\n{LOADED}", ROOT)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_loads_no_heavy_library() -> None:
    program = "import runpy, sys; sys.argv = ['mbrl', '--help']"
    program += f"\ntry:\n    runpy.run_module('mbrl', run_name='__main__')\nfinally:\n    {LOADED}"
    done = python(program, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"
    commands = (
        "demo",
        "import",
        "audit",
        "run",
        "card",
        "evaluate",
        "select",
        "promote",
        "rollback",
        "withdraw",
        "history",
        "copy",
        "delete",
        "bench",
        "ui",
    )
    assert all(command in done.stdout for command in commands)


@pytest.mark.parametrize("package", PLUGINS)
@pytest.mark.parametrize("content", ["", "__version__ = '0.2.0'\n", None], ids=["empty", "foreign", "namespace"])
def test_a_foreign_mbrl_is_named_with_the_way_out(tmp_path: Path, package: str, content: str | None) -> None:
    (tmp_path / "mbrl").mkdir()
    if content is not None:
        (tmp_path / "mbrl" / "__init__.py").write_text(content)
    (tmp_path / package).symlink_to(ROOT / package)
    done = python(f"import {package}", tmp_path, "-S")  # without site-packages, where an installed mbrl may be
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: the package `mbrl` at ")
    assert str(tmp_path / "mbrl") in error
    assert "pip uninstall mbrl" in error
