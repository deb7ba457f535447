"""Every equation of SAC and COMBO, computed a second time beside the learners. Bounds are far from [-1, 1]."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl.bench import hopper_sized
from mbrl.core import Batch, Spec, generator, seeded
from policies import COMBO, SAC
from policies.conservative import sampled_values
from policies.functional import conservative_gap
from policies.networks import Critics, Trunk

SPEC, ROWS = hopper_sized(64, 0)
WIDE = replace(SPEC, action_low=(0.0, -3.0, -1.0), action_high=(4.0, 1.0, 9.0))
CHOICES = replace(SPEC, discrete=True, action_low=(0.0,) * 3, action_high=(1.0,) * 3)


def made(cls: Any = SAC, spec: Spec = WIDE, **arguments: Any) -> Any:
    """A learner whose slow critics differ from the quick ones, so that a mix-up shows."""
    with seeded(0, "test"):
        learner = cls(spec, hidden=(16,), critics=3, **arguments)
    with torch.no_grad():
        for weight in learner.agent.slow.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(1, "noise")))
    return learner


def test_log_prob_is_the_density_of_samples_in_the_environment_s_units() -> None:
    actor = made().policy
    with torch.no_grad():
        action, unit_density = actor.sample(ROWS.obs, generator(0, "a"))
        expected = unit_density - torch.tensor([2.0, 2.0, 5.0]).log().sum()  # half of each range
        assert torch.allclose(actor.log_prob(ROWS.obs, action), expected, atol=1e-3)


def test_target() -> None:
    agent = made().agent
    with torch.no_grad():
        action, density = agent.actor.sample(ROWS.next_obs, generator(0, "a"))
        lowest = agent.slow(ROWS.next_obs, action).min(0).values
        living = 1 - ROWS.terminated.float()
        expected = ROWS.reward / WIDE.reward_std + 0.99 * living * (lowest - 0.1 * density)
    assert torch.allclose(agent.target(ROWS, generator(0, "a")), expected, atol=1e-5)


def test_target_over_choices() -> None:
    agent = made(spec=CHOICES).agent
    with torch.no_grad():
        log_probs = agent.actor.log_probs(ROWS.next_obs)
        lowest = agent.slow.every(ROWS.next_obs).min(0).values
        value = (log_probs.exp() * (lowest - 0.1 * log_probs)).sum(-1)
    expected = ROWS.reward / CHOICES.reward_std + 0.99 * (1 - ROWS.terminated.float()) * value
    assert torch.allclose(agent.target(ROWS, generator(0, "a")), expected, atol=1e-5)


@pytest.mark.parametrize("spec", [WIDE, CHOICES], ids=["box", "discrete"])
@pytest.mark.parametrize(("target", "direction"), [(-99.0, -1), (99.0, 1)])
def test_temperature_falls_above_the_entropy_target_and_rises_below(spec: Spec, target: float, direction: int) -> None:
    agent = made(spec=spec, entropy_target=target).agent
    before = agent.log_temperature.item()
    agent.improve_actor(ROWS.obs, generator(0, "a"))
    assert (agent.log_temperature.item() - before) * direction > 0


def test_the_actor_climbs_the_smallest_of_the_quick_critics() -> None:
    agent = made().agent
    with torch.no_grad():
        action, _ = agent.actor.sample(ROWS.obs, generator(0, "a"))
        expected = agent.critics(ROWS.obs, action).min(0).values.mean()
    found = agent.improve_actor(ROWS.obs, generator(0, "a"))["actor_value"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_actor_s_step_leaves_the_critics_alone() -> None:
    agent = made().agent
    before = [weight.clone() for weight in agent.critics.parameters()]
    agent.improve_actor(ROWS.obs, generator(0, "a"))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.critics.parameters(), strict=True))
    assert all(weight.grad is None for weight in agent.critics.parameters())


def test_critics_read_actions_in_units_of_the_range() -> None:
    plain, wide = made(spec=SPEC).agent.critics, made().agent.critics
    unit = torch.rand(64, 3, generator=generator(0, "u")) * 2 - 1
    assert torch.allclose(plain(ROWS.obs, unit), wide(ROWS.obs, wide.bounds.scale(unit)), atol=1e-5)


def test_a_constant_action_channel_is_no_division_by_zero() -> None:
    learner = made(spec=replace(WIDE, action_high=(4.0, -3.0, 9.0)))
    rows = ROWS._replace(action=learner.policy.act(ROWS.obs, None).detach())
    assert (rows.action[:, 1] == -3).all()
    metrics = learner.update(rows, None, generator(0, "a"))
    assert all(value.isfinite() for value in metrics.values())


def test_combo_s_actions_densities_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, seen = made(COMBO, samples=2), []
    critics = learner.agent.critics
    forward = critics.forward

    def spy(obs: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        seen.append((obs.view(6, 64, -1), action.view(6, 64, -1)))
        return forward(obs, action, frozen)

    monkeypatch.setattr(critics, "forward", spy)
    _, density = sampled_values(learner.agent, ROWS, 2, generator(0, "a"))
    obs, action = seen[0]
    assert torch.equal(obs, ROWS.obs.expand(6, -1, -1))  # every action is weighed at obs, whichever state it is from
    volume = learner.policy.bounds.log_volume()
    with torch.no_grad():
        for part, origin in ((slice(2, 4), ROWS.obs), (slice(4, 6), ROWS.next_obs)):
            expected = learner.policy.log_prob(origin.expand(2, -1, -1), action[part]) + volume
            assert torch.allclose(density[part], expected, atol=1e-3)


def test_combo_s_gap_takes_logged_actions_only() -> None:
    learner, twin, rng = made(COMBO, samples=2), made(COMBO, samples=2), generator(0, "b")
    real, dreamt = Batch(*(c[:40] for c in ROWS)), Batch(*(c[40:] for c in ROWS))
    twin.agent.target(ROWS, rng)  # an update draws these actions first
    with torch.no_grad():
        sampled = sampled_values(twin.agent, ROWS, 2, rng)
        expected = conservative_gap(*sampled, twin.agent.critics(real.obs, real.action)).mean()
    assert learner.update(real, dreamt, generator(0, "b"))["gap"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_combo_without_logged_rows_says_so() -> None:
    with pytest.raises(ValueError, match="COMBO is conservative relative to logged rows and got none"):
        made(COMBO).update(Batch(*(c[:0] for c in ROWS)), ROWS, generator(0, "a"))


def test_mixed_precision_tells_a_millimetre_at_a_metre() -> None:
    critics = Critics(replace(SPEC, obs_mean=(0.0,) * 11, obs_std=(1.0,) * 11), 2, (4,), layer_norm=False)
    trunk = Trunk(2, (4,), 1)
    for name, weight in [*critics.named_parameters(), *trunk.named_parameters()]:
        torch.nn.init.constant_(weight, 0.0 if "bias" in name else 1.0)
    with torch.no_grad():
        critics.weights[0][:, 1], trunk.hidden[0].weight[:, 1] = -1.0, -1.0  # both say 4 relu(x_0 - x_1)
    obs = torch.zeros(1, 11)
    obs[:, 0], obs[:, 1] = 1.0, 0.999
    with torch.autocast("cpu", torch.bfloat16):
        value, out = critics(obs, torch.zeros(1, 3)), trunk(obs[:, :2])
    assert value[:, 0].tolist() == pytest.approx([0.004, 0.004], rel=1e-2)  # rounded first: 0.0, or 0.0156
    assert out.item() == pytest.approx(0.004, rel=1e-2)


@pytest.mark.parametrize("cls", [SAC, COMBO])
def test_mixed_precision_keeps_losses_and_gradients(cls: Any) -> None:
    plain, mixed = made(cls), made(cls)
    exact = plain.update(ROWS, None, generator(0, "a"))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = mixed.update(ROWS, None, generator(0, "a"))
    for name, value in rounded.items():
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05, abs=0.02), name
    pairs = zip(plain.policy.parameters(), mixed.policy.parameters(), strict=True)
    for a, b in pairs:
        assert b.grad is not None
        assert b.grad.norm().item() == pytest.approx(a.grad.norm().item(), rel=0.1)
