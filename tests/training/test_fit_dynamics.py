import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_toys import NOISE, A, B, C, Known, Scripted, linear_world, spec_of, still, unit_spec
from torch import Tensor, nn

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from mbrl.core import Batch, Dynamics, Prediction, seeded
from mbrl.data.source import Whole
from mbrl.files import CorruptFileError
from mbrl.training.bootstrap import held_runs
from mbrl.training.dynamics import CHECKPOINT, FitReport, fit_dynamics
from mbrl.training.lookahead import NEGLIGIBLE, Lookahead

LOG, HELD = linear_world(600, 0, terminal_below=-2.0), linear_world(200, 1, terminal_below=-2.0)
SPEC = spec_of(LOG)
EPISODE = torch.arange(600) // 10


def small(model: type[Dynamics] = ProbabilisticEnsemble, **arguments: Any) -> Dynamics:
    with seeded(0, "test"):
        return model(SPEC, **{"members": 3, "elites": 2, "hidden": 16, "layers": 1} | arguments)


def fit(model: Dynamics, **arguments: Any) -> FitReport:
    return fit_dynamics(model, Whole(LOG, EPISODE), HELD, **{"seed": 7, "max_epochs": 4, "batch_size": 64} | arguments)


def scripted(script: list[list[float]], **arguments: Any) -> tuple[Scripted, FitReport]:
    """A fit of one update an epoch, in which the hold-out errors are as told."""
    model = Scripted(unit_spec(), script)
    report = fit_dynamics(model, Whole(still(1)), still(1), seed=0, lr=0.01, **arguments)
    return model, report


def test_linear_gaussian_world_is_recovered() -> None:
    log, held = linear_world(8000, 2), linear_world(1000, 3)
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(
            spec_of(log), members=2, elites=2, layers=0, weight_decays=[0.0], reward_network=[]
        )
    fit_dynamics(model, Whole(log, torch.arange(8000) // 20), held, seed=0, lr=1e-2, max_epochs=60, patience=60)
    obs, action = torch.eye(2), torch.zeros(2, 1)
    with torch.no_grad():
        origin = model.predict(torch.zeros(1, 2), torch.zeros(1, 1))
        axes = model.predict(obs, action)
        pushed = model.predict(torch.zeros(1, 2), torch.ones(1, 1))
    for e in range(2):
        torch.testing.assert_close((axes.obs[e] - origin.obs[e]).T, A, atol=0.03, rtol=0)
        torch.testing.assert_close((pushed.obs[e] - origin.obs[e]).T, B, atol=0.03, rtol=0)
        torch.testing.assert_close(axes.reward[e] - origin.reward[e], C, atol=0.03, rtol=0)
        std = torch.cat([origin.obs_std[e, 0], origin.reward_std[e]])
        torch.testing.assert_close(std, NOISE, atol=0, rtol=0.15)


@pytest.mark.parametrize("model", [ProbabilisticEnsemble, DeterministicEnsemble])
def test_64_rows_can_be_learnt_by_heart(model: type[Dynamics]) -> None:
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.randn(64, 3, generator=rng), torch.randn(64, 2, generator=rng)
    rows = Batch(obs, action, obs[:, 0] * action[:, 0], obs + torch.sin(2 * obs), torch.arange(64) % 8 == 0)
    with seeded(0, "test"):
        learner = model(spec_of(rows), members=2, elites=1, hidden=128, layers=2)
    episode = torch.zeros(64).long()  # so that every bootstrap holds all rows
    report = fit_dynamics(
        learner, Whole(rows, episode), rows, seed=0, lr=1e-2, batch_size=64, max_epochs=400, patience=400
    )
    assert max(report.scores) < 0.01
    chance = learner.termination(obs, action, rows.next_obs).mean(0)
    assert (chance > 0.5).equal(rows.terminated)


def test_holdout_score_by_hand_does_not_depend_on_units() -> None:
    class Off(Known):
        """Both are 100 off in a channel of spread 1000; in one of spread 1, member 0 is 0.1 off, member 1 is 1 off."""

        def predict(
            self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
        ) -> Prediction:
            mean = torch.stack([obs + torch.tensor([100.0, 0.1]), obs + torch.tensor([100.0, 1.0])])
            nothing = torch.zeros_like(mean)
            return Prediction(mean, nothing, nothing[..., 0] + 0.1, nothing[..., 0], torch.tensor([1000.0, 1.0, 1.0]))

    model = Off(unit_spec(2), members=2)
    rows = Batch(torch.ones(5, 2), torch.zeros(5, 1), torch.zeros(5), torch.ones(5, 2), torch.zeros(5).bool())
    assert Lookahead(model.spec, 1).score(model, held_runs(rows, torch.arange(5), 1)).tolist() == pytest.approx(
        [0.01 + NEGLIGIBLE, ((0.01 + NEGLIGIBLE) ** 2 * (1.0 + NEGLIGIBLE)) ** (1 / 3)]
    )
    model.elites = model.elites[:1]
    assert fit_dynamics(model, Whole(rows, torch.zeros(5).long()), rows, seed=0, max_epochs=1).elites == [0]


def test_a_channel_that_nobody_can_predict_does_not_hide_progress_in_the_others() -> None:
    class Noisy(Known):
        """Reward error 1 for both, a matter of luck; member 1 knows the observation ten times better."""

        def predict(
            self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
        ) -> Prediction:
            mean = torch.stack([obs + 0.1, obs + 0.01])
            nothing = torch.zeros_like(mean)
            reward = torch.stack([obs[:, 0] * 0 + 1.0, obs[:, 0] * 0 + 1.01])
            return Prediction(mean, nothing, reward, nothing[..., 0], torch.ones(2))

    model = Noisy(unit_spec(), members=2)
    score = Lookahead(model.spec, 1).score(model, held_runs(still(3), torch.zeros(3).long(), 1))
    best = [math.sqrt((error + NEGLIGIBLE) * (luck + NEGLIGIBLE)) for error, luck in ((0.01, 1.0), (1e-4, 1.01**2))]
    assert score.tolist() == pytest.approx(best)


def test_each_member_keeps_its_own_best_weights() -> None:
    model, report = scripted([[9.0, 1.0, 5.0, 5.0], [9.0, 8.0, 7.0, 2.0], [3.0, 4.0, 5.0, 6.0]], max_epochs=4)
    assert model.updates() == [2, 4, 1]
    assert report.scores == pytest.approx([1.0, 2.0, 3.0], abs=2e-4)
    assert report.elites == [0, 1, 2]
    assert (report.epochs, report.updates) == (4, 4)


def test_a_member_is_done_when_its_own_patience_ends() -> None:
    # member 0 is done after its 4th epoch, so its 5th, though better, does not count; member 1 goes on until its 7th
    script = [[9.0, 2.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0, 6.0, 6.0, 1.0]]
    model, report = scripted(script, patience=2, max_epochs=50)
    assert model.updates() == [2, 5]
    assert report.scores == pytest.approx([2.0, 5.0], abs=2e-4)
    assert report.elites == [0, 1]
    assert report.epochs == 7


def test_weights_are_averaged_over_about_an_epoch() -> None:
    model = Scripted(unit_spec(), [[9.0, 9.0, 9.0, 1.0]])
    rows, episode = still(2), torch.zeros(2).long()
    fit_dynamics(model, Whole(rows, episode), still(1), seed=0, lr=0.01, batch_size=1, max_epochs=2)
    # four updates, to 1, 2, 3 and 4 steps: evenly 1 and (1 + 2) / 2, then half of the way: 2.25 and 3.125
    assert -model.clock.item() / 0.01 == pytest.approx(3.125, rel=1e-4)


def test_of_weights_that_are_no_worse_the_last_are_kept() -> None:
    model, report = scripted([[2.0, 1.0, 1.009, 1.02], [1.0, 1.009, 1.018, 2.0]], max_epochs=4)
    assert model.updates() == [3, 2]  # 1 % is counted from the best, so that nothing creeps
    assert report.scores == pytest.approx([1.009, 1.009], abs=2e-4)


def test_small_gains_are_kept_and_do_not_prolong() -> None:
    # gains of less than 10 % do not count as improvements one by one, but together they do, at 8.9
    model, report = scripted([[10.0, 9.5, 9.2, 8.9, 8.8, 8.7, 8.6]], patience=3, min_improvement=0.1, max_epochs=50)
    assert report.epochs == 7
    assert model.updates() == [7]
    assert report.scores == pytest.approx([8.6], abs=2e-4)


def test_a_member_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match=r"members \[1\] never had a finite hold-out error: lower lr"):
        scripted([[1.0, 1.0], [torch.nan, torch.inf]], max_epochs=2)
    model, report = scripted([[1.0, torch.nan], [2.0, 1.0]], max_epochs=2)  # worse than before, so of no account
    assert model.updates() == [1, 2]
    assert report.scores == pytest.approx([1.0, 1.0], abs=2e-4)


def test_metrics_of_every_epoch_are_handed_out() -> None:
    told: list[tuple[dict[str, float], int]] = []
    script = [[4.0, 2.0, 3.0], [6.0, 8.0, 9.0]]
    scripted(script, max_epochs=3, patience=2, log=lambda metrics, epoch: told.append((metrics, epoch)))
    assert [epoch for _, epoch in told] == [1, 2, 3]
    assert [metrics["holdout_error"] for metrics, _ in told] == pytest.approx([5.0, 5.0, 6.0], abs=2e-4)
    assert [metrics["best_holdout_error"] for metrics, _ in told] == pytest.approx([5.0, 4.0, 4.0], abs=2e-4)
    assert [metrics["members_in_training"] for metrics, _ in told] == [2.0, 2.0, 1.0]
    assert [metrics["loss"] for metrics, _ in told] == pytest.approx([0.0, -0.01, -0.02])  # of the clock, before a step


def test_lines_go_to_stderr_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    scripted([[2.0, 1.0]], max_epochs=2, progress="dynamics")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[1] for line in err.splitlines()] == [" epoch 1", " epoch 2"]
    scripted([[2.0, 1.0]], max_epochs=2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(small(), max_epochs=2, progress="dynamics")
    stopped = small(Noisy)
    stopped.interrupt_after = 3
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, max_epochs=2, progress="dynamics")
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2:" in err
    assert "0/10" in err


def test_the_seed_decides_and_global_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    same, again, other = small(), small(), small()
    fit(same)
    fit(again)
    fit(other, seed=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(same.gaussian.mlp.weights[0], other.gaussian.mlp.weights[0])
    assert not same.training


class Noisy(ProbabilisticEnsemble):
    """Draws from torch's global generator while it learns, as dropout does, and can be interrupted."""

    interrupt_after: int | None = None

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        if self.interrupt_after is not None:
            self.interrupt_after -= 1
            if self.interrupt_after == -1:
                self.interrupt()
        return super().loss(batch._replace(obs=nn.functional.dropout(batch.obs, 0.1)))


def unlike(one: Dynamics, other: Dynamics) -> list[str]:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return [name for (name, a), b in pairs if not torch.equal(a, b)]


def test_resumed_at_an_epoch_equals_never_stopped(tmp_path: Path) -> None:
    straight, resumed = small(Noisy), small(Noisy)
    through = fit(straight, max_epochs=5)
    fit(small(Noisy), max_epochs=2, folder=tmp_path)
    report = fit(resumed, max_epochs=5, folder=tmp_path)
    assert unlike(straight, resumed) == []
    assert (report.epochs, report.updates, report.scores) == (through.epochs, through.updates, through.scores)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_interrupted_inside_an_epoch_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    straight, stopped, resumed = small(Noisy), small(Noisy), small(Noisy)
    fit(straight)
    handler = signal.getsignal(signal.SIGINT)
    stopped.interrupt_after = 25  # in the third epoch of ten updates
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    report = fit(resumed, folder=tmp_path)
    assert report.epochs == 4
    assert unlike(straight, resumed) == []


def test_a_sigterm_is_heard_as_ctrl_c_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what batch systems and containers end a process with, and lightning would exit with status 0."""
    monkeypatch.setattr(Noisy, "interrupt", lambda self: signal.raise_signal(signal.SIGTERM))
    straight, stopped, resumed = small(Noisy), small(Noisy), small(Noisy)
    fit(straight)
    before, handler = signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.getsignal(signal.SIGINT)  # Ray has its own
    stopped.interrupt_after = 25
    try:
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
            fit(stopped, folder=tmp_path)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert fit(resumed, folder=tmp_path).epochs == 4
    assert unlike(straight, resumed) == []


@pytest.mark.parametrize(("patience", "epochs"), [(2, 3), (9, 4)], ids=["by patience", "by max_epochs"])
def test_a_finished_fit_is_not_trained_further(tmp_path: Path, patience: int, epochs: int) -> None:
    script = [[1.0, 2.0, 2.0, 0.5, 0.1]]
    first, _ = scripted(script, patience=patience, max_epochs=4, folder=tmp_path)
    told: list[int] = []
    log = lambda metrics, epoch: told.append(epoch)  # noqa: E731
    again, report = scripted(script, patience=patience, max_epochs=4, folder=tmp_path, log=log)
    assert told == []
    assert report.epochs == report.updates == epochs
    assert unlike(first, again) == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    fit(small(), max_epochs=1, folder=tmp_path)
    path = tmp_path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=CHECKPOINT):
        fit(small(), folder=tmp_path)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    fit(small(), max_epochs=1, folder=tmp_path)
    with pytest.raises(ValueError, match="of another fit: seed was 7, is 8, batch_size was 64, is 32"):
        fit(small(), seed=8, batch_size=32, folder=tmp_path)
    with pytest.raises(ValueError, match=r"of another fit: model was .*'hidden': 16.* is .*'hidden': 17"):
        fit(small(hidden=17), folder=tmp_path)
    other = small()
    other.spec = replace(other.spec, reward_mean=other.spec.reward_mean + 1)
    with pytest.raises(ValueError, match=r"of another fit: log was [0-9a-f]{12}, is [0-9a-f]{12}\. Give"):
        fit(other, folder=tmp_path)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(small(), max_epochs=1, folder=tmp_path)
    older = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mbrl.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(small(), folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {CHECKPOINT: older}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"precision": "64-true"}, "precision is '64-true', expected one of 32-true"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(small(), **arguments)


def test_bad_rows() -> None:
    nothing = Batch(*(column[:0] for column in HELD))
    with pytest.raises(ValueError, match="600 training and 0 held-out rows"):
        fit_dynamics(small(), Whole(LOG, EPISODE), nothing, seed=0)
    with pytest.raises(ValueError, match=r"episode has shape \[599\], expected \[600\]"):
        fit_dynamics(small(), Whole(LOG, EPISODE[1:]), HELD, seed=0)


def test_parameters_without_a_member_axis_are_refused() -> None:
    model = Known(unit_spec())
    model.shared = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"parameter shared of Known has shape \[2\], expected \[3, ...\]"):
        fit_dynamics(model, Whole(still(4), torch.zeros(4).long()), still(4), seed=0)


def test_mixed_precision_leaves_float32() -> None:
    model = small()
    report = fit(model, precision="bf16-mixed", max_epochs=2)
    assert max(report.scores) < 1.5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
