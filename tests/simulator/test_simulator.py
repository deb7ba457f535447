from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_toys import Known, linear_world, reward_of_first, spec_of, unit_spec
from torch import Tensor, nn

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from dynamics.terminations import hopper
from dynamics.uncertainty import ensemble_std, max_aleatoric, max_pairwise, mixture_std
from mbrl import files
from mbrl.core import Batch, Prediction, Step, generator, seeded
from mbrl.simulator import calibration, dealing, stored
from mbrl.simulator.simulator import Simulator
from mbrl.testing import no_host_reads

LOG = linear_world(300, 0, terminal_below=-1.5)
SPEC = spec_of(LOG)


def ensemble(members: int = 4, elites: int = 3) -> ProbabilisticEnsemble:
    with seeded(0, "test"):
        return ProbabilisticEnsemble(SPEC, members, elites, hidden=8, layers=2).eval()


def known(members: int = 3, elites: list[int] | None = None, **arguments: Any) -> Known:
    model = Known(unit_spec(terminals="chances" in arguments), members, **arguments)
    if elites is not None:
        model.elites = torch.tensor(elites)
    return model


def held(values: Tensor) -> Batch:
    rows = values.float().view(-1, 1)
    return Batch(rows, rows, rows[:, 0], rows, torch.zeros(len(rows), dtype=torch.bool))


def stepped(simulator: Simulator, obs: Tensor, seed: int = 0) -> Step:
    return simulator.step(obs, torch.zeros(len(obs), 1), generator(seed, "test"))


def same(one: Step, other: Step) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


@pytest.mark.parametrize("uncertainty", [None, reward_of_first])
@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_each_row_is_stepped_by_one_elite(uncertainty: Any, rows: int) -> None:
    simulator = Simulator(known(4, elites=[2, 0, 3]), unit_spec(), uncertainty)
    simulator.calibrate(held(torch.arange(1, 11)))
    obs = torch.arange(float(rows)).view(-1, 1)
    step = stepped(simulator, obs)
    member = (step.next_obs - obs).flatten() - 1
    assert set(member.tolist()) <= {0.0, 2.0, 3.0}
    assert torch.equal(step.reward, obs[:, 0] + 10 * member)  # observation and reward are of the same member
    if rows == 300:
        assert member.long().bincount().tolist() == [100, 0, 100, 100]
    assert [t.shape for t in step[:-1]] == [(rows, 1), (rows,), (rows,), (rows,)]
    assert step.memory is None
    assert step.terminated.dtype == torch.bool


def test_elites_are_drawn_anew_and_evenly() -> None:
    simulator = Simulator(known(3), unit_spec())
    rng = generator(0, "test")
    obs = torch.zeros(2, 1)
    drawn = torch.stack([simulator.step(obs, obs, rng).next_obs[:, 0] - 1 for _ in range(600)])
    for row in range(2):
        counts = drawn[:, row].long().bincount(minlength=3)
        assert ((counts > 160) & (counts < 240)).all(), counts
    assert (drawn[:, 0] != drawn[:, 1]).all()  # two rows, three elites: nobody serves both


@pytest.mark.parametrize("uncertainty", [None, max_aleatoric, ensemble_std, max_pairwise, mixture_std])
def test_a_step_is_decided_by_its_generator(uncertainty: Any) -> None:
    simulator = Simulator(ensemble(), SPEC, uncertainty)
    simulator.calibrate(LOG)
    state, copies = torch.random.get_rng_state(), (LOG.obs.clone(), LOG.action.clone())
    first, again, other = (simulator.step(LOG.obs, LOG.action, generator(s, "test")) for s in (1, 1, 2))
    assert same(first, again)
    assert not torch.equal(first.next_obs, other.next_obs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(LOG.obs, copies[0])
    assert torch.equal(LOG.action, copies[1])


def test_both_paths_make_the_same_world() -> None:
    model = ensemble()
    quick, doubting = Simulator(model, SPEC), Simulator(model, SPEC, max_pairwise)
    quick.calibrate(LOG)
    doubting.calibrate(LOG)
    one, other = (s.step(LOG.obs, LOG.action, generator(0, "test")) for s in (quick, doubting))
    torch.testing.assert_close(one.next_obs, other.next_obs)
    torch.testing.assert_close(one.reward, other.reward)
    assert torch.equal(one.terminated, other.terminated)
    assert one.uncertainty.eq(0).all()
    assert other.uncertainty.gt(0).all()


@pytest.mark.parametrize("uncertainty", [None, mixture_std])
def test_chunks_do_not_change_a_step(uncertainty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(ensemble(), SPEC, uncertainty)
    simulator.calibrate(LOG)
    whole = simulator.step(LOG.obs, LOG.action, generator(0, "test"))
    monkeypatch.setattr(dealing, "CACHE_ROWS", 44)
    for a, b in zip(simulator.step(LOG.obs, LOG.action, generator(0, "test"))[:-1], whole[:-1], strict=True):
        torch.testing.assert_close(a, b)


def test_samples_have_the_predicted_moments() -> None:
    step = stepped(Simulator(known(1, std=0.5), unit_spec()), torch.full((40_000, 1), 3.0))
    assert step.next_obs.mean().item() == pytest.approx(4.0, abs=0.01)
    assert step.next_obs.std().item() == pytest.approx(0.5, rel=0.02)
    assert step.reward.mean().item() == pytest.approx(3.0, abs=0.01)
    assert step.reward.std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.corrcoef(torch.stack([step.next_obs[:, 0], step.reward]))[0, 1].abs() < 0.02


def test_predictions_stay_in_the_widened_range_of_the_log() -> None:
    simulator = Simulator(known(1), unit_spec(low=0.0, high=10.0), margin=0.25)
    step = stepped(simulator, torch.tensor([[-50.0], [3.0], [50.0]]))
    assert step.next_obs.flatten().tolist() == [-2.5, 4.0, 12.5]
    assert step.reward.tolist() == [-2.5, 3.0, 12.5]
    tight = stepped(Simulator(known(1), unit_spec(low=0.0, high=10.0), margin=0.0), torch.tensor([[50.0]]))
    assert tight.next_obs.item() == 10.0


@pytest.mark.parametrize(
    ("quantile", "unit"), [(0.95, 95.0), (0.5, 50.0), (1.0, 100.0), (0.001, 1.0), (0.955, 96.0), (0.07, 7.0)]
)
def test_uncertainty_is_in_units_of_its_quantile(quantile: float, unit: float) -> None:
    simulator = Simulator(known(), unit_spec(), reward_of_first, quantile=quantile)
    simulator.calibrate(held(torch.randperm(100, generator=generator(0, "test")) + 1))
    assert simulator.uncertainty_scale.item() == unit
    assert stepped(simulator, torch.tensor([[unit], [3 * unit]])).uncertainty.tolist() == [1.0, 3.0]


def test_a_single_deterministic_member_knows_no_doubt() -> None:
    model = DeterministicEnsemble(SPEC, members=1, elites=1, hidden=8, layers=1)
    simulator = Simulator(model, SPEC, mixture_std)
    simulator.calibrate(LOG)
    assert simulator.step(LOG.obs, LOG.action, generator(0, "test")).uncertainty.eq(0).all()


def test_rounding_is_not_amplified_into_doubt() -> None:
    simulator = Simulator(known(), unit_spec(), lambda p: 1e-9 * torch.ones_like(p.reward[0]))
    simulator.calibrate(held(torch.arange(10)))
    assert stepped(simulator, torch.zeros(3, 1)).uncertainty.tolist() == pytest.approx([1e-3] * 3)


def test_calibration_reads_all_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CALIBRATION_ROWS", 7)
    simulator = Simulator(known(), unit_spec(), reward_of_first)
    simulator.calibrate(held(torch.arange(1, 101)))
    assert simulator.uncertainty_scale.item() == 95.0


def test_a_step_before_the_calibration_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="call calibrate"):
        stepped(Simulator(known(), unit_spec(), reward_of_first), torch.zeros(1, 1))


def test_calibration_refuses_nothing_and_nan() -> None:
    simulator = Simulator(known(), unit_spec(), reward_of_first)
    with pytest.raises(ValueError, match="hold out at least one episode"):
        simulator.calibrate(held(torch.zeros(0)))
    with pytest.raises(ValueError, match="uncertainty of 1 of 3 held-out transitions is not finite"):
        simulator.calibrate(held(torch.tensor([1.0, torch.nan, 2.0])))
    with pytest.raises(ValueError, match="uncertainty of 2 of 3 held-out transitions is below 0, the smallest -3"):
        simulator.calibrate(held(torch.tensor([-1.0, 2.0, -3.0])))
    assert not simulator.calibrated


def of_members(prediction: Prediction) -> Tensor:
    return prediction.reward


def in_columns(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, :1] > 1


def likely(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0].sigmoid()


def test_functions_of_another_shape_are_named_with_their_setting() -> None:
    rows, spec = held(torch.arange(3)), unit_spec()
    with pytest.raises(
        ValueError, match=r"simulator.uncertainty .*of_members returned .*\[3, 3\], expected a tensor \[3\]"
    ):
        Simulator(known(), spec, of_members).calibrate(rows)
    for rule, got in (in_columns, r"bool \[3, 1\]"), (likely, r"float32 \[3\]"):
        told = rf"simulator.termination .*{rule.__name__} returned torch.{got}, expected a bool tensor \[3\]"
        with pytest.raises(ValueError, match=told):
            Simulator(known(), spec, termination=rule).step(rows.obs, rows.action, generator(0, "test"))


@pytest.mark.parametrize("arguments", [{"margin": -0.1}, {"quantile": 0.0}, {"quantile": 1.1}])
def test_bad_arguments(arguments: dict[str, float]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Simulator(known(), unit_spec(), **arguments)


def test_a_named_rule_decides_the_termination() -> None:
    def rule(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (next_obs > 5)[..., 0]

    simulator = Simulator(known(1, chances=(1.0,)), unit_spec(terminals=True), termination=rule)
    assert stepped(simulator, torch.tensor([[3.0], [4.5]])).terminated.tolist() == [False, True]


def test_the_head_of_the_drawn_member_decides_otherwise() -> None:
    simulator = Simulator(known(3, chances=(0.0, 1.0, 0.0)), unit_spec(terminals=True))
    obs = torch.zeros(50, 1)
    step = stepped(simulator, obs)
    assert torch.equal(step.terminated, step.next_obs[:, 0] == 2)
    assert 0 < step.terminated.sum() < 50


def test_a_probability_of_the_head_is_drawn() -> None:
    simulator = Simulator(known(1, chances=(0.3,)), unit_spec(terminals=True))
    assert stepped(simulator, torch.zeros(20_000, 1)).terminated.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_a_log_without_terminals_never_ends() -> None:
    simulator = Simulator(known(1, chances=(1.0,)), unit_spec(terminals=False))
    assert not stepped(simulator, torch.zeros(9, 1)).terminated.any()


@pytest.mark.parametrize("uncertainty", [None, max_aleatoric, ensemble_std, max_pairwise, mixture_std])
@pytest.mark.parametrize("termination", [None, hopper])
def test_a_step_never_makes_the_host_wait(uncertainty: Any, termination: Any) -> None:
    simulator = Simulator(ensemble(), SPEC, uncertainty, termination)
    simulator.calibrate(LOG)
    rng = generator(0, "test")
    with no_host_reads():
        step = simulator.step(LOG.obs, LOG.action, rng)
    assert step.next_obs.isfinite().all()


def test_saved_and_loaded_it_is_the_same_world(tmp_path: Path) -> None:
    original = Simulator(ensemble(), SPEC, max_aleatoric, hopper, margin=0.3, quantile=0.8)
    original.dynamics.elites = torch.tensor([3, 1, 0])
    original.calibrate(LOG)
    files.save(tmp_path / "world.ckpt", stored.state(original))
    state = torch.random.get_rng_state()
    loaded = stored.load(files.load(tmp_path / "world.ckpt"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (loaded.uncertainty, loaded.termination) == (max_aleatoric, hopper)
    assert (loaded.margin, loaded.quantile, loaded.calibrated, loaded.spec) == (0.3, 0.8, True, SPEC)
    one, other = (s.step(LOG.obs, LOG.action, generator(0, "test")) for s in (original, loaded))
    assert same(one, other)


def test_without_functions_it_is_saved_as_well() -> None:
    loaded = stored.load(stored.state(Simulator(ensemble(), SPEC)))
    assert (loaded.uncertainty, loaded.termination, loaded.calibrated) == (None, None, False)


def test_a_function_without_a_path_cannot_be_saved() -> None:
    def local(prediction: Prediction) -> Tensor:
        return prediction.reward[0]

    for function in (local, lambda prediction: prediction.reward[0]):
        with pytest.raises(ValueError, match="does not lead to it"):
            stored.state(Simulator(ensemble(), SPEC, function))


def test_start_states_and_the_trusted_horizon_travel_with_it(tmp_path: Path) -> None:
    starts = LOG.obs[:3].clone()
    original = Simulator(ensemble(), SPEC, starts=starts, trusted_horizon=12)
    starts += 1  # the log's tensor may be reused
    files.save(tmp_path / "world.ckpt", stored.state(original))
    loaded = stored.load(files.load(tmp_path / "world.ckpt"))
    assert loaded.starts is not None
    assert torch.equal(loaded.starts, LOG.obs[:3])
    assert loaded.trusted_horizon == 12


@pytest.mark.parametrize("shape", [(3,), (0, 2), (4, 3)])
def test_start_states_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"starts have shape .*expected \[S >= 1, 2\]"):
        Simulator(ensemble(), SPEC, starts=torch.zeros(shape))


def test_start_states_beyond_its_range_are_refused() -> None:
    starts = LOG.obs[:5].clone()
    starts[3, 1] = 99.0
    with pytest.raises(ValueError, match=r"start state 3 has 99\.0 in channel 1, expected -?[\d.]+ to [\d.]+"):
        Simulator(ensemble(), SPEC, starts=starts)


def test_a_negative_trusted_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="trusted_horizon is -1, expected 0 or more"):
        Simulator(ensemble(), SPEC, trusted_horizon=-1)


@pytest.mark.parametrize("margin", [-0.1, float("inf"), float("nan")])
def test_a_margin_that_is_no_fraction_of_the_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=f"margin is {margin}, expected a fraction of the log's range"):
        Simulator(ensemble(), SPEC, margin=margin)


def test_plain_is_the_same_world_without_its_uncertainty() -> None:
    simulator = Simulator(ensemble(), SPEC, max_pairwise, hopper, starts=LOG.obs[:3], trusted_horizon=4)
    simulator.calibrate(LOG)
    plain, other = simulator.plain(), Simulator(simulator.dynamics, SPEC, None, hopper)
    other.calibrate(LOG)
    assert (simulator.uncertainty, plain.uncertainty) == (max_pairwise, None)
    assert (plain.trusted_horizon, plain.starts) == (4, simulator.starts)
    assert same(stepped(plain, LOG.obs), stepped(other, LOG.obs))


def test_a_module_as_uncertainty_stays_with_the_world_that_it_is_of() -> None:
    class Doubt(nn.Module):
        def forward(self, prediction: Prediction) -> Tensor:
            return max_pairwise(prediction)

    simulator = Simulator(ensemble(), SPEC, Doubt())
    assert simulator.plain().uncertainty is None
    assert isinstance(simulator.uncertainty, Doubt)


def test_fewer_rows_than_elites_are_stepped_by_as_many_members() -> None:
    asked = []

    class Watched(Known):
        def predict(
            self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
        ) -> Prediction:
            asked.append(members)
            return super().predict(obs, action, members)

    simulator = Simulator(Watched(unit_spec(), 5), unit_spec())
    stepped(simulator, torch.zeros(2, 1))
    assert [len(m) for m in asked] == [2]


def test_a_loaded_simulator_is_ready_to_be_stepped() -> None:
    simulator = Simulator(Known(unit_spec(2), 1).train(), unit_spec(2))
    assert not stored.load(stored.state(simulator)).dynamics.training
