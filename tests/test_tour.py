"""The README's tour of a plant's log, command by command."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from pipeline_toys import dots, small

from mbrl.__main__ import main
from mbrl.data import minari

ROOT = Path(__file__).resolve().parents[1]


def tour() -> list[list[str]]:
    """The commands of the README's block that begins with the generator."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "make_plant_log" in block)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_tour_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    dots(monkeypatch, but="rollouts.png")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for program, *arguments in tour():
        if program == "mbrl":
            assert main(arguments) == 0
        else:
            script, *rest = arguments
            monkeypatch.setattr(sys, "argv", [script, *rest])
            runpy.run_path(str(ROOT / script), run_name="__main__")
    data = minari.load("acme/tank-v0")
    assert data.labels == ("temperature [degC]", "level [m]", "pump=eco", "pump=full", "ambient [degC]")
    assert (data.exogenous, data.bound_low) == ((4,), (0.0, 0.0, None, None, None, None))
    assert data.bound_high == (120.0, 3.0, None, None, None, None)
    assert data.action_units == ("kW", "%")
    assert data.episodes == 40  # as many as the historian paused, and one more
    assert bool((data.obs[:, 2:4].sum(1) == 1).all())
    assert np.isclose(float(data.obs[:, 0].mean()), 60, atol=10)
    assert (tmp_path / "home" / "audits" / "acme-tank-v0.html").is_file()
    pairs = set(zip(data.obs[:, 4].tolist(), data.next_obs[:, 4].tolist(), strict=True))
    (rollouts,) = (tmp_path / "home").rglob("rollouts.parquet")
    table = pd.read_parquet(rollouts)
    dreamt = {(float(a[4]), float(b[4])) for a, b in zip(table.obs, table.next_obs, strict=True)}
    assert dreamt <= pairs  # the weather that there was
    env = gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/tank-simulator/1", horizon=50)
    obs, _ = env.reset(seed=0)
    for _ in range(50):
        after = env.step(env.action_space.sample())[0]
        assert (float(obs[4]), float(after[4])) in pairs
        obs = after
