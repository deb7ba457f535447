"""Fits that runs share: made once, taken from then on, and made anew where anything is different."""

import threading
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from dynamics_toys import linear_world, spec_of

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from mbrl.core import Dynamics, seeded
from mbrl.data.source import Whole
from mbrl.files import CorruptFileError
from mbrl.training.dynamics import FitReport, fit_dynamics
from mbrl.training.shared import fit_once

LOG, HELD = linear_world(200, 0), linear_world(100, 1)
ABOUT = {"log": "3f1c", "seed": 7}


def model(seed: int = 0, kind: type[Dynamics] = ProbabilisticEnsemble, hidden: int = 8) -> Dynamics:
    with seeded(seed, "test"):
        return kind(spec_of(LOG), members=2, elites=1, hidden=hidden, layers=1)


def once(folder: Path | None, of: Dynamics, about: dict[str, Any] = ABOUT) -> tuple[FitReport, bool]:
    """The report, and whether a fit was made for it."""
    made = []

    def fit() -> FitReport:
        made.append(True)
        return fit_dynamics(of, Whole(LOG, torch.arange(200) // 10), HELD, seed=7, max_epochs=2, batch_size=64)

    return fit_once(folder, "simulator", of, about, fit), bool(made)


def test_the_same_fit_is_taken_with_weights_elites_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = model(), model()
    report, made = once(tmp_path / "fits", first)
    again, repeated = once(tmp_path / "fits", second)
    assert (made, repeated, again) == (True, False, report)
    assert not first.training
    assert not any(part.training for part in second.modules())  # dropout rests, as after the fit itself
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert not torch.equal(next(model().parameters()), next(first.parameters()))
    assert "fitted before, to the same rows in the same way: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "about"),
    [
        (model(seed=1), ABOUT),
        (model(hidden=9), ABOUT),
        (model(kind=DeterministicEnsemble), ABOUT),
        (model(), {**ABOUT, "log": "77ab"}),
        (model(), {**ABOUT, "multistep": 10}),
    ],
    ids=["first weights", "configuration", "class", "log", "setting"],
)
def test_another_fit_is_made(other: Dynamics, about: dict[str, Any], tmp_path: Path) -> None:
    once(tmp_path, model())
    assert once(tmp_path, other, about)[1]
    assert len(list(tmp_path.glob("*.ckpt"))) == 2


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [once(None, model())[1] for _ in range(2)] == [True, True]
    assert not list(tmp_path.iterdir())


def test_a_fit_that_fails_leaves_nothing_and_is_made_by_the_next(tmp_path: Path) -> None:
    def fit() -> FitReport:
        raise FloatingPointError("members [0] never had a finite hold-out error")

    with pytest.raises(FloatingPointError):
        fit_once(tmp_path, "simulator", model(), ABOUT, fit)
    assert not list(tmp_path.glob("*.ckpt"))
    assert once(tmp_path, model())[1]


def test_who_comes_while_it_is_made_waits_and_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once(tmp_path, model())
    kept = next(tmp_path.glob("*.ckpt"))
    busy = filelock.FileLock(kept.with_suffix(".lock"), thread_local=False)
    busy.acquire()
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(once(tmp_path, model())[1]))
    waiting.start()
    told = ""
    while waiting.is_alive() and not told:
        time.sleep(0.01)
        told += capsys.readouterr().out
    assert told.startswith("simulator          another run makes this very fit: waiting for ")
    assert not found
    busy.release()
    waiting.join()
    assert found == [False]


def test_a_file_that_was_altered_is_refused(tmp_path: Path) -> None:
    once(tmp_path, model())
    kept = next(tmp_path.glob("*.ckpt"))
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=kept.name):
        once(tmp_path, model())
