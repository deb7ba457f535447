"""Who decides, with which code and on what kind of machine: what every entry of the ledger says beside the decision."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from mbrl import __version__

PACKAGES = ("torch", "mlflow", "lightning", "numpy", "scipy", "gymnasium", "minari")
GIT_SECONDS = 10.0


def who() -> str:
    """The user of this process, as the system knows them; nobody has proved it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a password file
        return f"uid {os.getuid()}"


@functools.cache
def circumstances() -> dict[str, Any]:
    """Code commit and whether it was changed, versions of the dependencies, and the kind of machine; no names of it."""
    return {
        "code": {"version": __version__, **_commit(Path(__file__).parents[2])},
        "versions": {name: version for name in PACKAGES if (version := _installed(name)) is not None},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> dict[str, Any]:
    """The commit of the checkout that mbrl runs from; nothing where it is installed, or where there is no git."""
    if not (folder / ".git").exists():
        return {}
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=GIT_SECONDS
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changes)}
