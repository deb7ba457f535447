"""The README's tour of a plant's log, command by command."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from mbrl.__main__ import main
from mbrl.data import minari

ROOT = Path(__file__).resolve().parents[1]


def tour() -> list[list[str]]:
    """The commands of the README's block that begins with the generator."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "make_plant_log" in block)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_tour_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, *arguments in tour():
        if program == "mbrl":
            assert main(arguments) == 0
        else:
            script, *rest = arguments
            monkeypatch.setattr(sys, "argv", [script, *rest])
            runpy.run_path(str(ROOT / script), run_name="__main__")
    data = minari.load("acme/tank-v0")
    assert data.labels == ("temperature [degC]", "level [m]", "pump=eco", "pump=full")
    assert data.action_units == ("kW", "%")
    assert data.episodes == 40  # as many as the historian paused, and one more
    assert bool((data.obs[:, 2:].sum(1) == 1).all())
    assert np.isclose(float(data.obs[:, 0].mean()), 60, atol=10)
    assert (tmp_path / "home" / "audits" / "acme-tank-v0.html").is_file()
