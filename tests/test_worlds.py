"""The simulators of a run: what another run has fitted to the same rows in the same way is taken from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamics import ProbabilisticEnsemble
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide
from mbrl.runfolder import RunFolder
from mbrl.settings import Fit, World
from mbrl.simulator.simulator import Simulator
from mbrl.worlds import Desk, Log, Worlds


class Record:
    """A run's record that keeps nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator["Record"]:
        yield self

    def tags(self, *told: Any) -> None:
        pass

    metrics = tags


def fitted(folder: Path, stage: str, data: TransitionDataset, **changes: Any) -> Simulator:
    log = Log(data, data, divide(data, (0.7, 0.1, 0.2), 0, needs_terminals=True))
    model = partial(ProbabilisticEnsemble, members=2, elites=1, hidden=8, layers=1)
    seed = changes.pop("seed", 0)
    fit = Fit(max_epochs=1, shared=folder.parent / "fits", **changes)
    worlds = Worlds("toy", seed, "cpu", fit, World(), model, log, resident=1 << 30)
    with RunFolder.open(folder, data.fingerprint) as notes:
        return worlds.fitted(stage, Desk(notes, Record()))  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["simulator", "judge"])
def test_a_second_run_takes_the_fit_and_is_calibrated_alike(
    stage: str, toy_data: Callable[..., TransitionDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_data((6,) * 40)
    first, second = (fitted(tmp_path / name, stage, data) for name in ("one", "two"))
    assert "fitted before, to the same rows in the same way: " in capsys.readouterr().out
    assert len(list((tmp_path / "fits").glob("*.ckpt"))) == 1
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    for number, change in enumerate(({"seed": 1}, {"lr": 2e-3}), 2):
        fitted(tmp_path / str(number), stage, data, **change)
        assert len(list((tmp_path / "fits").glob("*.ckpt"))) == number
