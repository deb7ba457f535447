"""The multi-step loss by hand, what it is worth under measurement noise, and how a fit with it goes on."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_toys import Known, spec_of, still, unit_spec
from torch import Tensor, nn

from dynamics import ProbabilisticEnsemble
from mbrl.core import Batch, Dynamics, Prediction, Spec, seeded
from mbrl.data.source import Whole
from mbrl.training.bootstrap import Runs, held_runs
from mbrl.training.dynamics import FitReport, fit_dynamics
from mbrl.training.lookahead import NEGLIGIBLE, Lookahead


class Slope(Dynamics):
    """Member e says next_obs = w_e obs and reward = 0; a plug-in that knows nothing of several steps."""

    def __init__(self, spec: Spec, slopes: tuple[float, ...] = (2.0, 0.5)) -> None:
        super().__init__(spec, len(slopes))
        self.slopes = nn.Parameter(torch.tensor(slopes).view(-1, 1, 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return (self.slopes * batch.obs - batch.next_obs).square().mean((-2, -1))

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        mean = self.slopes * obs if members is None else self.slopes[members] * obs
        nothing = torch.zeros_like(mean)
        return Prediction(mean, nothing, nothing[..., 0], nothing[..., 0], torch.tensor([4.0] * mean.shape[-1] + [1.0]))


def runs_of(obs: list[float], next_obs: list[float], horizon: int, episode: list[int] | None = None) -> Runs:
    """Rows of one channel without actions or reward, as runs."""
    rows = still(len(obs))._replace(obs=torch.tensor(obs).unsqueeze(-1), next_obs=torch.tensor(next_obs).unsqueeze(-1))
    return held_runs(rows, torch.tensor(episode or [0] * len(obs)), horizon)


def to_members(runs: Runs, members: int) -> Runs:
    return Runs(Batch(*(x.expand(members, *x.shape) for x in runs.rows)), runs.valid.expand(members, -1, -1))


def test_squared_errors_by_hand() -> None:
    # from 1, member 0 says 2, 4, 8 and member 1 says 1/2, 1/4, 1/8; the log went to 1, 3, 8
    runs = runs_of([1.0, 1.0, 3.0], [1.0, 3.0, 8.0], 3)
    model = Slope(unit_spec())
    found = Lookahead(model.spec, 3).squares(model, runs)
    assert found.shape == (2, 1, 3, 2)
    expected = [[1 / 16, 1 / 16, 0], [0.25 / 16, 2.75**2 / 16, 7.875**2 / 16]]
    torch.testing.assert_close(found[:, 0, :, 0], torch.tensor(expected))
    assert found[..., 1].eq(0).all()
    torch.testing.assert_close(Lookahead(model.spec, 3).squares(model, to_members(runs, 2)), found)


def test_followed_states_stay_within_the_logs_widened_range() -> None:
    # 10 -> 20 is clipped to 10 + 10 % of 20 = 12, from where 24 follows; the error itself is not clipped
    runs = runs_of([10.0, 0.0], [0.0, 0.0], 2)
    model = Slope(unit_spec(low=-10.0, high=10.0))
    found = Lookahead(model.spec, 2).squares(model, runs)
    assert found[0, 0, :, 0].tolist() == [20**2 / 16, 24**2 / 16]
    bounded = Spec.from_dict(model.spec.to_dict() | {"bound_low": [None, None], "bound_high": [11.0, None]})
    assert Lookahead(bounded, 2).squares(model, runs)[0, 0, :, 0].tolist() == [20**2 / 16, 22**2 / 16]


def test_channels_that_may_keep_their_value_are_followed_as_they_were_logged() -> None:
    # both channels double, so member 0 says (2, 2), and then (4, 2 x 5): the second went on from where the log was
    obs, after = torch.tensor([[1.0, 1.0], [3.0, 5.0]]), torch.tensor([[3.0, 5.0], [8.0, 5.0]])
    runs = held_runs(still(2)._replace(obs=obs, next_obs=after), torch.zeros(2).long(), 2)
    wide = unit_spec(2)
    for holding, expected in ([], [4.0, 4.0]), ([1], [4.0, 10.0]), ([0, 1], [6.0, 10.0]):
        spec = Spec.from_dict(wide.to_dict() | {"holding": holding})
        found = Lookahead(spec, 2).squares(Slope(spec), runs)[0, 0, 1, :2]
        torch.testing.assert_close(found, (torch.tensor(expected) - after[1]).square() / 16)


def test_multistep_loss_by_hand_counts_later_steps_and_leaves_padding_out() -> None:
    # mean squared errors over both runs: step 2 ((4 - 3)^2 + (8 - 3)^2) / 2 = 13, step 3 (8 - 8)^2 + 1 = 1 of one run
    runs = runs_of([1.0, 1.0, 3.0, 2.0, 1.0], [1.0, 3.0, 9.0, 1.0, 3.0], 3, [0, 0, 0, 1, 1])
    loss = Lookahead(unit_spec(), 3).loss(Slope(unit_spec()), to_members(runs, 2))
    channel = [(2 * math.log(13 / 16) + math.log(1 / 16)) / 3]
    reward = math.log(1e-8)  # exact
    assert loss[0].item() == pytest.approx((channel[0] + reward) / 2, rel=1e-5)


def test_runs_of_one_row_cost_nothing() -> None:
    runs = to_members(runs_of([1.0, 1.0], [3.0, 3.0], 2, [0, 1]), 2)
    assert Lookahead(unit_spec(), 2).loss(Slope(unit_spec()), runs).tolist() == [0.0, 0.0]


def test_gradient_passes_through_the_steps() -> None:
    # d/dw log((w^2 - 3)^2 / 16) = 4 w / (w^2 - 3), half of it as the reward is a second channel
    model = Slope(unit_spec())
    Lookahead(model.spec, 2).loss(model, to_members(runs_of([1.0, 1.0], [1.0, 3.0], 2), 2)).sum().backward()
    assert model.slopes.grad is not None
    expected = [0.5 * 4 * w / (w**2 - 3) for w in (2.0, 0.5)]
    assert model.slopes.grad.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_holdout_score_by_hand_two_steps_ahead() -> None:
    # member 0: step 1 errors 1 (run 1) and 3 (run 2); step 2 of run 1 alone: 4 - 3 = 1
    runs = runs_of([1.0, 1.0, 2.0], [1.0, 3.0, 1.0], 2, [0, 0, 1])
    first, second = (1 + 9) / 2 / 16, 1 / 16
    score = Lookahead(unit_spec(), 2).score(Slope(unit_spec()), runs)
    nothing = math.log(NEGLIGIBLE)
    logs = math.log(first + NEGLIGIBLE) + nothing, math.log(second + NEGLIGIBLE) + nothing
    expected = math.exp((2 * logs[0] / 2 + logs[1] / 2) / 3)
    assert score[0].item() == pytest.approx(expected, rel=1e-4)


def test_holdout_score_does_not_depend_on_how_much_is_predicted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log, episode = oscillations(4, 0)
    runs, model = held_runs(log, episode, 7), Known(spec_of(log), std=0.1)
    at_once = Lookahead(model.spec, 7).score(model, runs)
    monkeypatch.setattr("mbrl.training.lookahead.SCORE_ROWS", 20)
    torch.testing.assert_close(Lookahead(model.spec, 7).score(model, runs), at_once)


def test_exogenous_channels_are_followed_as_they_were_logged_and_not_counted() -> None:
    # x' = 2 x is predicted; the weather goes 5, 7, 11 as logged, and what Driven earns is the weather it sees
    class Driven(Slope):
        def predict(
            self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
        ) -> Prediction:
            mean = torch.cat([self.slopes * obs[..., :1], obs[..., 1:].expand(self.members, -1, 1)], -1)
            nothing = torch.zeros_like(mean)
            return Prediction(mean, nothing, mean[..., 1], nothing[..., 0], torch.ones(3))

    spec = Spec.from_dict(unit_spec(2).to_dict() | {"exogenous": [1], "predicted": [0]})
    obs = torch.tensor([[1.0, 5.0], [2.0, 7.0], [3.0, 11.0]])
    rows = Batch(obs, torch.zeros(3, 1), torch.zeros(3), torch.cat([obs[1:], obs[:1]]), torch.zeros(3).bool())
    found = Lookahead(spec, 3).squares(Driven(spec), held_runs(rows, torch.zeros(3).long(), 3))
    assert found.shape == (2, 1, 3, 2)
    assert found[0, 0, :, 0].tolist() == [0.0, 1.0, 49.0]
    assert found[0, 0, :, 1].tolist() == [25.0, 49.0, 121.0]


TURN, DAMPING, NOISE, STEPS = 0.3, 0.995, 0.5, 40
PUSH = torch.tensor([0.0, 0.5])


def oscillations(episodes: int, seed: int) -> tuple[Batch, Tensor]:
    """A lightly damped oscillator under random pushes, whose states are measured with white noise; and the episodes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes, 2, generator=rng) * 1.5
    action = 2 * torch.rand(episodes, STEPS, 1, generator=rng) - 1
    states = [x]
    for step in range(STEPS):
        states.append(truly_next(states[-1], action[:, step]))
    measured = torch.stack(states, 1) + NOISE * torch.randn(episodes, STEPS + 1, 2, generator=rng)
    obs, next_obs = measured[:, :-1].flatten(0, 1), measured[:, 1:].flatten(0, 1)
    nothing = torch.zeros(len(obs))
    batch = Batch(obs, action.flatten(0, 1), obs[:, 0] + nothing, next_obs, nothing.bool())
    return batch, torch.arange(episodes).repeat_interleave(STEPS)


def truly_next(x: Tensor, action: Tensor) -> Tensor:
    c, s = DAMPING * math.cos(TURN), DAMPING * math.sin(TURN)
    return x @ torch.tensor([[c, -s], [s, c]]) + action * PUSH


LOG, EPISODE = oscillations(100, 0)
HELD, HELD_EPISODE = oscillations(25, 1)


def fitted(multistep: int, **arguments: Any) -> tuple[Dynamics, FitReport]:
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(
            spec_of(LOG), members=2, elites=2, layers=0, weight_decays=[0.0], reward_network=[]
        )
    settings = {"seed": 0, "batch_size": 200, "lr": 0.01, "max_epochs": 12, "patience": 12} | arguments
    return model, fit_dynamics(model, Whole(LOG, EPISODE), HELD, HELD_EPISODE, multistep=multistep, **settings)


@torch.no_grad()
def error_after_20_steps(model: Dynamics) -> float:
    """Of both members from exact states, as a share of how far the true states are from the origin."""
    rng = torch.Generator().manual_seed(2)
    truth = torch.randn(200, 2, generator=rng) * 1.5
    imagined = truth.expand(2, -1, -1)
    for _ in range(20):
        action = 2 * torch.rand(200, 1, generator=rng) - 1
        truth, imagined = truly_next(truth, action), model.predict(imagined, action.expand(2, -1, -1)).obs
    return float((imagined - truth).norm() / truth.expand(2, -1, -1).norm())


@cache
def model_of(multistep: int) -> Dynamics:
    return fitted(multistep)[0]


@torch.no_grad()
def kept(model: Dynamics) -> float:
    """The share of an amplitude that member 0 believes is left after a step."""
    origin, axes = torch.zeros(1, 2), torch.eye(2)
    turned = model.predict(axes, torch.zeros(2, 1)).obs - model.predict(origin, torch.zeros(1, 1)).obs
    return float(torch.linalg.det(turned[0]).sqrt())


def test_measurement_noise_biases_the_one_step_fit_and_not_the_multi_step_one() -> None:
    one, several = model_of(1), model_of(10)
    # errors in variables: least squares shrinks the oscillation by the share of noise in what is measured
    signal = float(LOG.obs.var(0).mean()) - NOISE**2
    assert kept(one) == pytest.approx(DAMPING * signal / (signal + NOISE**2), abs=0.025)
    assert kept(several) == pytest.approx(DAMPING, abs=0.025)
    assert error_after_20_steps(several) < 0.5 * error_after_20_steps(one)


def unlike(one: Dynamics, other: Dynamics) -> list[str]:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return [name for (name, a), b in pairs if not torch.equal(a, b)]


def test_resumed_at_an_epoch_equals_never_stopped(tmp_path: Path) -> None:
    straight, through = fitted(3, max_epochs=3)
    fitted(3, max_epochs=1, folder=tmp_path)
    resumed, report = fitted(3, max_epochs=3, folder=tmp_path)
    assert unlike(straight, resumed) == []
    assert (report.epochs, report.scores) == (through.epochs, through.scores)


def test_a_checkpoint_of_another_horizon_or_weight_is_refused(tmp_path: Path) -> None:
    fitted(3, max_epochs=1, folder=tmp_path)
    with pytest.raises(ValueError, match=r"of another fit: multistep was 3, is 4, multistep_weight was 1.0, is 2.0"):
        fitted(4, max_epochs=1, multistep_weight=2.0, folder=tmp_path)


def test_no_episode_is_followed_beyond_its_end() -> None:
    log, episode = oscillations(6, 3)
    short = episode * STEPS + torch.arange(STEPS).repeat(6) // 4  # episodes of four rows
    made = []
    for horizon in (4, 9):
        with seeded(0, "test"):
            model = ProbabilisticEnsemble(
                spec_of(log), members=2, elites=2, layers=0, weight_decays=[0.0], reward_network=[]
            )
        fit_dynamics(model, Whole(log, short), log, short, seed=0, batch_size=48, max_epochs=2, multistep=horizon)
        made.append(model)
    assert unlike(*made) == []


def test_the_weight_decides_how_much_later_steps_count() -> None:
    light, _ = fitted(10, multistep_weight=1e-6)
    assert error_after_20_steps(light) > 0.9 * error_after_20_steps(model_of(1))
    assert error_after_20_steps(light) > 1.5 * error_after_20_steps(model_of(10))


def test_a_model_of_ones_own_is_fitted_through_predict_alone() -> None:
    # x' = 0.9 x, and the one-step loss of `Blind` teaches nothing
    class Blind(Slope):
        def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
            return 0 * super().loss(batch)

    obs = torch.tensor([0.9**k for k in range(10)]).repeat(20)
    rows = still(200)._replace(obs=obs.unsqueeze(-1), next_obs=0.9 * obs.unsqueeze(-1))
    episode, model = torch.arange(20).repeat_interleave(10), Blind(unit_spec())
    fit_dynamics(model, Whole(rows, episode), rows, episode, seed=0, lr=0.05, max_epochs=60, patience=60, multistep=5)
    assert model.slopes.flatten().tolist() == pytest.approx([0.9, 0.9], abs=0.02)


def test_mixed_precision_leaves_float32() -> None:
    model, report = fitted(5, max_epochs=1, precision="bf16-mixed")
    assert all(math.isfinite(score) for score in report.scores)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_that_passes_no_gradient_on_is_told() -> None:
    class Detached(Slope):
        @torch.no_grad()
        def predict(
            self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
        ) -> Prediction:
            return super().predict(obs, action, members)

    runs = to_members(runs_of([1.0, 1.0], [1.0, 3.0], 2), 2)
    with pytest.raises(ValueError, match="predict of Detached passes no gradient on"):
        Lookahead(unit_spec(), 2).loss(Detached(unit_spec()), runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multistep": 0}, "multistep is 0, expected at least 1"),
        ({"multistep": 2, "multistep_weight": 0.0}, "multistep_weight is 0.0, expected a number above 0"),
        ({"multistep": 2, "multistep_weight": math.nan}, "multistep_weight is nan"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(**arguments)


def test_held_out_rows_need_their_episodes() -> None:
    model = Slope(spec_of(LOG))
    with pytest.raises(ValueError, match="multistep is 2 and holdout_episode is not given"):
        fit_dynamics(model, Whole(LOG, EPISODE), HELD, seed=0, multistep=2)
    with pytest.raises(ValueError, match=r"holdout_episode has shape \[999\], expected \[1000\]"):
        fit_dynamics(model, Whole(LOG, EPISODE), HELD, HELD_EPISODE[1:], seed=0, multistep=2)
