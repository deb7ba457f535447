"""The contract of a model of the world."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics, Prediction, Spec, build, seeded
from mbrl.testing.rows import rows_for
from mbrl.watching import no_host_reads


def check_dynamics(dynamics: Dynamics | Callable[[Spec], Dynamics], spec: Spec) -> None:
    """A model's contract, for an instance built for `spec` or a class or function that builds one.

    Shapes of `loss`, `predict` and `termination` with and without `members` and with both forms of obs, channels that
    are not to be predicted, finite losses and gradients, members that do not touch each other, determinism, and a
    description to rebuild the model from. Of a model that remembers also the states: their shapes, that members and
    rows have states of their own, and that predictions and gradients depend on them.
    """
    with seeded(0, "check"):
        model = dynamics if isinstance(dynamics, Dynamics) else dynamics(spec)
    elites, members = model.elites.tolist(), model.members
    assert model.elites.dtype == torch.long, f"elites is {model.elites.dtype}, expected torch.long"
    assert elites, "elites is empty"
    assert len(set(elites)) == len(elites), f"elites {elites} repeat a member"
    assert set(elites) <= set(range(members)), f"elites {elites} are not all members: there are {members}"
    for name, parameter in model.named_parameters():
        shape = list(parameter.shape)
        assert shape[:1] == [members], f"parameter {name} has shape {shape}, expected [{members}, ...]: members first"
    with torch.no_grad():
        _check_states(model.eval(), spec)
    _check_loss(model, spec)
    model.eval()
    with torch.no_grad():
        _check_predict(model, spec)
        _check_termination(model, spec)
        _check_rebuilt(model, spec)


def _check_loss(model: Dynamics, spec: Spec) -> None:
    batch = _rows_per_member(spec, model.members)
    with no_host_reads():
        hidden = model.train().initial(batch.reward.shape[1])
        hidden = model.remember(batch.obs, batch.action, hidden)
        loss = model.loss(batch, hidden)
    assert loss.shape == (model.members,), f"loss has shape {list(loss.shape)}, expected [{model.members}]"
    assert loss.isfinite().all(), f"loss is not finite: {loss.tolist()}"
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained, "there is no parameter to train, and a fit is gradient descent"
    names, parameters = zip(*trained, strict=True)
    gradients = torch.autograd.grad(loss[0], parameters, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            assert gradient.isfinite().all(), f"the gradient of parameter {name} is not finite"
            assert not gradient[1:].any(), f"the loss of member 0 moves the other members' part of parameter {name}"
    assert any(g is not None and g.any() for g in gradients), "the loss of member 0 moves no parameter"


def _check_states(model: Dynamics, spec: Spec) -> None:
    batch, initial = rows_for(spec, 6), model.initial(6)
    if not model.memory:
        assert initial is None, f"initial gives states, and memory is {model.memory}: a fit would not train them"
        return
    assert initial is not None, f"memory is {model.memory}, and initial gives no states"
    with no_host_reads():
        states = model.remember(batch.obs, batch.action, initial)
    assert states is not None, f"memory is {model.memory}, and remember gives no states"
    wide = (model.members, 6, initial.shape[-1])
    for name, found in ("initial", initial), ("remember", states):
        assert found.shape == wide, f"{name} has shape {list(found.shape)}, expected [{model.members}, 6, H]"
        assert found.isfinite().all(), f"{name} is not finite"
    chosen = torch.arange(model.members).flip(0)[:2]
    some = model.remember(batch.obs, batch.action, initial[chosen], chosen)
    assert some is not None and torch.allclose(some, states[chosen], atol=1e-5), (  # noqa: PT018 (one promise)
        "remember with `members` is not what these members make of it"
    )
    alone = model.remember(batch.obs[2:3], batch.action[2:3], initial[:, 2:3])
    assert alone is not None and torch.allclose(alone, states[:, 2:3], atol=1e-5), (  # noqa: PT018
        "the state of a row depends on its neighbours"
    )
    told = model.predict(batch.obs, batch.action, None, states)
    assert not torch.equal(told.obs, model.predict(batch.obs, batch.action, None, initial).obs), (
        "predict does not depend on hidden: a model without use for it has memory 0"
    )


def _states(model: Dynamics, rows: Batch, members: Tensor | None = None) -> Tensor | None:
    """States [E', B, H] that are not those of a beginning; None of a model that remembers nothing."""
    initial = model.initial(rows.reward.shape[-1])
    if initial is not None and members is not None:
        initial = initial[members]
    return model.remember(rows.obs, rows.action, initial, members)


def _check_predict(model: Dynamics, spec: Spec) -> None:
    batch, chosen = rows_for(spec, 6), torch.arange(model.members).flip(0)[:2]
    with no_host_reads():
        everyone = model.predict(batch.obs, batch.action, None, hidden := _states(model, batch))
        some = model.predict(batch.obs, batch.action, chosen, None if hidden is None else hidden[chosen])
    _check_prediction(everyone, model.members, 6, spec)
    rest = [k for k in range(spec.obs_dim) if k not in spec.predicted]
    held = torch.equal(everyone.obs[..., rest], batch.obs[:, rest].expand(model.members, -1, -1))
    assert held, f"Prediction.obs moves channels {rest}, which are not in Spec.predicted: leave them at their value now"
    assert not everyone.obs_std[..., rest].any(), f"Prediction.obs_std is not 0 for {rest}, not in Spec.predicted"
    _check_prediction(some, len(chosen), 6, spec)
    again = model.predict(batch.obs, batch.action, None, hidden)
    _same(everyone, again, "predict differs between two equal calls in eval mode")
    _same(everyone.of(chosen), some, "predict with `members` is not what these members say")
    own = _rows_per_member(spec, len(chosen))
    hidden = _states(model, own, chosen)
    apart = model.predict(own.obs, own.action, chosen, hidden)
    _check_prediction(apart, len(chosen), own.obs.shape[1], spec)
    for i in range(len(chosen)):
        part = None if hidden is None else hidden[i : i + 1]
        alone = model.predict(own.obs[i], own.action[i], chosen[i : i + 1], part)
        _same(apart.of(torch.tensor([i])), alone, "with obs [E', B, O], a member does not read its own rows")


def _check_prediction(prediction: Prediction, members: int, rows: int, spec: Spec) -> None:
    wide, flat = (members, rows, spec.obs_dim), (members, rows)
    shapes = (wide, wide, flat, flat, (spec.obs_dim + 1,), wide, wide, wide, wide)
    resting = {name: getattr(prediction, name) is None for name in Prediction._field_defaults}
    assert len(set(resting.values())) == 1, f"Prediction's {', '.join(resting)} go together"
    for name, shape in zip(Prediction._fields, shapes, strict=True):
        found = getattr(prediction, name)
        if found is None and name in Prediction._field_defaults:
            continue
        assert found.shape == shape, f"Prediction.{name} has shape {list(found.shape)}, expected {list(shape)}"
        assert found.isfinite().all(), f"Prediction.{name} is not finite"
        assert not name.endswith("std") or (found >= 0).all(), f"Prediction.{name} is negative"
    assert (prediction.scale > 0).all(), "Prediction.scale is not positive"
    if prediction.still is not None:
        chance = (prediction.still >= 0) & (prediction.still <= 1)
        assert chance.all(), "Prediction.still is not a probability"


def _check_termination(model: Dynamics, spec: Spec) -> None:
    rows, own = rows_for(spec, 6), _rows_per_member(spec, model.members)
    obs, action, _, next_obs, _ = rows
    chosen = torch.arange(model.members)[-1:]
    with no_host_reads():
        everyone = model.termination(obs, action, next_obs, None, hidden := _states(model, rows))
        some = model.termination(obs, action, next_obs, chosen, None if hidden is None else hidden[chosen])
        apart = model.termination(own.obs, own.action, own.next_obs, None, _states(model, own))
    for chance, shape in (everyone, (model.members, 6)), (some, (1, 6)), (apart, own.reward.shape):
        assert chance.shape == shape, f"termination has shape {list(chance.shape)}, expected {list(shape)}"
        assert ((chance >= 0) & (chance <= 1)).all(), "termination is not a probability"
    assert torch.allclose(some, everyone[chosen], atol=1e-5), "termination with `members` is not what these members say"
    with no_host_reads():
        paid = model.end_pay(obs, action, next_obs, None, hidden)
        by_some = model.end_pay(obs, action, next_obs, chosen, None if hidden is None else hidden[chosen])
    assert (paid is not None) == model.ends_apart, f"ends_apart is {model.ends_apart}, and end_pay says otherwise"
    for one, other in zip(paid or (), by_some or (), strict=True):
        assert one.shape == (model.members, 6), f"end_pay has shape {list(one.shape)}, expected [{model.members}, 6]"
        assert one.isfinite().all(), "end_pay is not finite"
        assert torch.allclose(other, one[chosen], atol=1e-5), "end_pay with `members` is not what these members say"
    assert paid is None or (paid[1] > 0).all(), "the std of end_pay is not above 0"


def _check_rebuilt(model: Dynamics, spec: Spec) -> None:
    with seeded(1, "check"):
        twin = build(model.config, Dynamics, spec)
    twin.load_state_dict(model.state_dict())
    rows, broken = rows_for(spec, 6), "a model rebuilt from config and state_dict differs"
    obs, action, _, next_obs, _ = rows
    hidden, other = _states(model, rows), _states(twin.eval(), rows)
    _same(model.predict(obs, action, None, hidden), twin.predict(obs, action, None, other), broken)
    ends = [m.termination(obs, action, next_obs, None, h) for m, h in ((model, hidden), (twin, other))]
    assert torch.equal(*ends), broken
    assert torch.equal(twin.elites, model.elites), broken


def _rows_per_member(spec: Spec, members: int) -> Batch:
    """Rows [E, 6, ...] that differ between members."""
    return Batch(*(torch.stack(t) for t in zip(*(rows_for(spec, 6, seed) for seed in range(members)), strict=True)))


def _same(expected: Prediction, found: Prediction, broken: str) -> None:
    for name, one, other in zip(Prediction._fields, expected, found, strict=True):
        assert (one is None) == (other is None), f"{broken} (Prediction.{name})"
        assert one is None or other is None or torch.allclose(one, other, rtol=1e-4, atol=1e-5), (
            f"{broken} (Prediction.{name})"
        )
