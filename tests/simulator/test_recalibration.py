"""The stated intervals: closed forms, what heavy tails and a bias do, and that tables and their inverses agree."""

import pytest
import torch
from dynamics_toys import linear_world, spec_of
from torch import Tensor

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from mbrl.core import generator, seeded
from mbrl.evaluation import scores
from mbrl.simulator import stored
from mbrl.simulator.calibration import residuals
from mbrl.simulator.holding import Stated
from mbrl.simulator.recalibration import Forecast, Recalibration, outcome
from mbrl.simulator.simulator import Simulator

UNIT = torch.ones(1)


def column(values: Tensor) -> Tensor:
    return values.float().view(-1, 1)


def fitted(target: Tensor, method: str = "isotonic", std: float = 1.0) -> Recalibration:
    """A recalibration of one member that says N(0, std) of every target."""
    mean = torch.zeros(1, len(target), 1)
    made = Recalibration(1)
    made.fit(residuals(Stated(mean, torch.full_like(mean, std)), column(target), UNIT), UNIT, method)
    return made


def forecast(made: Recalibration, count: int, std: float = 1.0) -> Forecast:
    mean = torch.zeros(1, count, 1)
    return made.forecast(mean, torch.full_like(mean, std), UNIT)


def test_unfitted_it_is_the_normal_distribution() -> None:
    made, said = Recalibration(1), Forecast(torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    low, high = made.interval(said, 0.9)
    assert (low.item(), high.item()) == pytest.approx((2 - 3 * 1.6449, 2 + 3 * 1.6449), abs=1e-3)
    assert made.pit(said, torch.tensor([[5.0]])).item() == pytest.approx(0.84134, abs=1e-4)
    assert made.quantile(said, 0.9999).item() == pytest.approx(2 + 3 * 3.719, abs=1e-2)  # beyond the table, on its line


def test_the_scale_is_the_closed_optimum_of_the_likelihood() -> None:
    target = torch.tensor([1.0, -1.0, 3.0, -3.0])
    assert fitted(target, "scale").scale.item() == pytest.approx(5**0.5)  # of (1 + 1 + 9 + 9) / 4
    assert fitted(target, "scale", std=2.0).scale.item() == pytest.approx(1.25**0.5)
    made = fitted(torch.randn(500, generator=generator(0, "test")) * 2, "scale")
    losses = [
        scores.gaussian_nll(
            torch.zeros(500), torch.full((500,), s), torch.randn(500, generator=generator(0, "test")) * 2
        )
        for s in (made.scale.item() * x for x in (0.95, 1.0, 1.05))
    ]
    assert losses[1].mean() < min(losses[0].mean(), losses[2].mean())


def test_a_scale_leaves_the_quantiles_normal() -> None:
    torch.testing.assert_close(fitted(torch.tensor([1.0, -4.0]), "scale").knots, Recalibration(1).knots)


def test_the_mixture_has_the_moments_of_its_members() -> None:
    mean, std = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[1.0]], [[2.0]]])
    said = Recalibration(1).forecast(mean, std, UNIT)
    assert said.mean.item() == 2.0
    assert said.std.item() == pytest.approx((2.5 + 1.0) ** 0.5)


def test_isotonic_repairs_tails_and_bias_that_a_scale_cannot() -> None:
    rng = generator(0, "test")
    levels = torch.rand(2, 6000, generator=rng)
    seen, new = 0.3 + torch.tan(torch.pi * 0.45 * (2 * levels - 1))  # heavy tails about 0.3
    errors = {}
    for method in ("scale", "isotonic"):
        made = fitted(seen, method)
        pit = made.pit(forecast(made, 6000), column(new))
        errors[method] = scores.calibration_error(pit).item()
        if method == "isotonic":
            assert scores.coverage(pit, 0.9).item() == pytest.approx(0.9, abs=0.02)
            assert pit.mean().item() == pytest.approx(0.5, abs=0.02)
    assert errors["isotonic"] < 0.02 < 0.05 < errors["scale"]


def test_quantile_and_transform_are_inverse() -> None:
    made = fitted(torch.randn(1000, generator=generator(0, "test")) ** 3)
    said = forecast(made, 1)
    for level in (0.001, 0.05, 0.3, 0.5, 0.77, 0.95, 0.999):
        assert made.pit(said, made.quantile(said, level)).item() == pytest.approx(level, abs=1e-4)


def test_an_error_without_an_end_is_the_last_of_all() -> None:
    made = fitted(torch.randn(1000, generator=generator(0, "test")))
    pit = made.pit(forecast(made, 3), column(torch.tensor([-torch.inf, torch.inf, torch.nan])))
    assert pit[:2, 0].tolist() == [0.0, 1.0]
    assert pit[2].isnan()


def test_equal_errors_leave_the_knots_apart() -> None:
    made = fitted(torch.zeros(50))
    assert (made.knots.diff() > 0).all()
    assert made.knots.abs().max() < 1e-6


@pytest.mark.parametrize("tied", [0.2, 0.7, 1.0])
def test_errors_that_many_rows_have_exactly_are_spread_over_their_levels(tied: float) -> None:
    rng = generator(0, "test")
    error = torch.randn(4000, generator=rng).where(torch.rand(4000, generator=rng) >= tied, 0.5)
    for seen in (error, error.sort().values):  # in any order
        made = fitted(error)
        pit = made.pit(forecast(made, 4000), column(seen))
        assert scores.calibration_error(pit).item() < 0.02  # all of them at the lowest level: 0.04, 0.24, 0.5
        assert scores.coverage(pit, 0.9).item() == pytest.approx(0.9, abs=0.01)
        assert scores.coverage(pit, 0.5).item() == pytest.approx(0.5, abs=0.05)  # two knots are up to 0.05 apart


def test_what_is_not_finite_is_counted() -> None:
    with pytest.raises(ValueError, match="predictions of 1 of 3 held-out transitions are not finite"):
        fitted(torch.tensor([1.0, torch.nan, 0.0]))


@pytest.mark.parametrize("model", [ProbabilisticEnsemble, DeterministicEnsemble])
@pytest.mark.parametrize("members", [1, 3])
def test_every_model_of_the_house_gets_honest_intervals(model: type, members: int) -> None:
    log, new = linear_world(2000, 0), linear_world(2000, 1)
    spec = spec_of(log)
    with seeded(0, "test"):
        simulator = Simulator(model(spec, members=members, elites=members, hidden=8, layers=1).eval(), spec)
    simulator.calibrate(log)
    with torch.no_grad():
        said = simulator.forecast(simulator.dynamics.predict(new.obs, new.action))
    pit = simulator.recalibration.pit(said, outcome(new))
    assert scores.calibration_error(pit).max() < 0.04
    assert ((scores.coverage(pit, 0.9) - 0.9).abs() < 0.04).all()
    assert simulator.recalibration.scale.isfinite().all()
    if model is DeterministicEnsemble:
        assert simulator.recalibration.scale.tolist() == [1.0, 1.0, 1.0]  # nothing to scale


def test_the_scale_is_what_a_step_samples_with_and_is_kept() -> None:
    log = linear_world(500, 0)
    spec = spec_of(log)
    with seeded(0, "test"):
        simulator = Simulator(ProbabilisticEnsemble(spec, 2, 2, hidden=8, layers=1).eval(), spec, margin=1e6)
    before = simulator.step(log.obs, log.action, generator(0, "test"))
    simulator.calibrate(log)
    after = simulator.step(log.obs, log.action, generator(0, "test"))
    simulator.recalibration.scale.zero_()
    mean = simulator.step(log.obs, log.action, generator(0, "test"))
    scale = stored.load(stored.state(simulator)).recalibration.scale
    assert scale.eq(0).all()
    ratio = (after.next_obs - mean.next_obs) / (before.next_obs - mean.next_obs)
    assert ratio.std(0).max() < 1e-2
    assert (ratio.mean(0) - 1).abs().min() > 0.05


def test_an_unknown_method_is_refused() -> None:
    spec = spec_of(linear_world(50, 0))
    with pytest.raises(ValueError, match="recalibration is 'platt', expected one of isotonic, scale"):
        Simulator(DeterministicEnsemble(spec, members=1, elites=1), spec, recalibration="platt")
