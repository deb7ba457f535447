"""Models that predict some channels of the observation, and leave the others as they are."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from dynamics_toys import linear_world, spec_of
from weather_world import Driven, driven

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble
from dynamics.uncertainty import max_pairwise, mixture_std
from mbrl.core import Batch, Dynamics, Prediction, Spec, generator, seeded
from mbrl.data.source import Whole
from mbrl.testing import check_dynamics
from mbrl.training.bootstrap import held_runs
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.lookahead import Lookahead

MODELS = [ProbabilisticEnsemble, DeterministicEnsemble]
SMALL = {"members": 3, "elites": 2, "hidden": 16, "layers": 1}


def wide(rows: int = 400) -> tuple[Batch, Spec]:
    """The linear world with a channel of no meaning between its two, which is not to be predicted."""
    log = linear_world(rows, 0, terminal_below=-1.5)
    noise = 100 * torch.randn(2, rows, generator=generator(0, "wide"))
    obs, next_obs = (torch.stack([x[:, 0], n, x[:, 1]], 1) for x, n in zip((log.obs, log.next_obs), noise, strict=True))
    batch = log._replace(obs=obs, next_obs=next_obs)
    return batch, replace(spec_of(batch), predicted=(0, 2))


@pytest.mark.parametrize("model", MODELS)
def test_contract(model: Callable[..., Dynamics]) -> None:
    check_dynamics(lambda spec: model(spec, **SMALL), wide()[1])


class Meddler(Driven):
    """Says something of the weather, which it is not asked for."""

    def predict(self, *args: object, **kwargs: object) -> Prediction:
        prediction = super().predict(*args, **kwargs)  # type: ignore[arg-type]
        return prediction._replace(obs=prediction.obs + 1)


class Doubter(Driven):
    """Is unsure of the weather, which it is not asked for."""

    def predict(self, *args: object, **kwargs: object) -> Prediction:
        prediction = super().predict(*args, **kwargs)  # type: ignore[arg-type]
        return prediction._replace(obs_std=prediction.obs_std + 1)


def test_the_contract_notices_who_predicts_more() -> None:
    spec = driven().spec(torch.arange(3))
    check_dynamics(Driven, spec)
    with pytest.raises(AssertionError, match=r"Prediction\.obs moves channels \[0\]"):
        check_dynamics(Meddler, spec)
    with pytest.raises(AssertionError, match=r"Prediction\.obs_std is not 0 for \[0\]"):
        check_dynamics(Doubter, spec)


@pytest.mark.parametrize("model", MODELS)
def test_the_others_cost_no_output_and_count_for_nothing(model: Callable[..., Dynamics]) -> None:
    batch, spec = wide()
    with seeded(0, "test"):
        made = model(spec, **SMALL).eval()
    outputs = (made.gaussian if model is ProbabilisticEnsemble else made).mlp.weights[-1]  # type: ignore[union-attr]
    assert outputs.shape[-1] == (2 * 2 if model is ProbabilisticEnsemble else 3)
    other = batch._replace(next_obs=batch.next_obs + torch.tensor([0.0, 1e6, 0.0]))
    assert torch.equal(made.normaliser.targets(batch), made.normaliser.targets(other))  # type: ignore[operator,union-attr]
    scores = [Lookahead(spec, 1).score(made, held_runs(rows, torch.arange(400), 1)) for rows in (batch, other)]
    assert torch.equal(*scores)


def test_it_learns_the_rest_of_the_world() -> None:
    data = driven((40,) * 12)
    spec, rows = data.spec(torch.arange(10)), data.rows(torch.arange(10))
    with seeded(0, "test"):
        model = DeterministicEnsemble(spec, members=2, elites=2, hidden=1, layers=0)
    held = data.batch(data.rows(torch.tensor([10, 11])))
    fit_dynamics(model, Whole(data.batch(rows)), held, seed=0, batch_size=32, lr=0.03, max_epochs=40)
    prediction = model.predict(held.obs, held.action)
    torch.testing.assert_close(prediction.obs[0, :, 1], held.next_obs[:, 1], atol=0.03, rtol=0)
    assert torch.equal(prediction.obs[0, :, 0], held.obs[:, 0])
    for function in (mixture_std, max_pairwise):
        wider = prediction._replace(scale=prediction.scale * torch.tensor([1e-6, 1.0, 1.0]))
        assert torch.equal(function(prediction), function(wider))  # the weather's own scale does not matter
