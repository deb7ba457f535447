import dataclasses

import pytest
import torch
from registry_toys import Drift, Fickle, Line, Overshoot, Rounding, Slip, far, simulator, spec
from weather_world import driven, simulator_of

import dynamics.uncertainty
import policies
from mbrl import files
from mbrl.serving import export
from mbrl.simulator.simulator import Simulator


def test_the_example_is_the_logs_mean_smallest_and_largest_values():
    obs, action = export.example(spec()).values()
    assert obs.tolist() == [[10.0, -5.0, 0.0], [6.0, -8.0, -1.0], [14.0, -2.0, 1.0]]
    assert action.tolist() == [[0.5, 0.5], [-1.0, 0.0], [3.0, 4.0]]
    action = export.example(spec(discrete=True))["action"]
    assert action.tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def test_one_step_is_the_mean_over_elites():
    # elites 0 and 2 of 3: pushes 1 and 3 times 0.1 * (1 + 2), rewards 0 and 2, ends 0.1 and 0.3; spread (2 - 0) / 4
    step = export.OneStep(simulator())(torch.tensor([[10.0, -5.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(step["next_obs"], torch.tensor([[10.6, -4.4, 0.6]]))
    torch.testing.assert_close(step["reward"], torch.tensor([1.0]))
    torch.testing.assert_close(step["terminated"], torch.tensor([0.2]))
    torch.testing.assert_close(step["uncertainty"], torch.tensor([0.5]))


def test_the_served_interval_is_the_recalibrated_one_of_the_elites():
    # elites push 0.3 and 0.9, each with std 1: variance 1 + 0.09; the table is normal until it is fitted, then doubled
    made, rows = simulator(margin=10.0), (torch.tensor([[10.0, -5.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    step = export.OneStep(made)(*rows)
    half = 1.6449 * 1.09**0.5
    torch.testing.assert_close(step["next_obs_high"], step["next_obs"] + half, rtol=0, atol=1e-2)
    torch.testing.assert_close(step["next_obs_low"], step["next_obs"] - half, rtol=0, atol=1e-2)
    assert step["reward_high"].item() == pytest.approx(1 + 1.6449 * 2**0.5, abs=1e-2)  # rewards 0 and 2
    made.recalibration.knots.mul_(2)
    torch.testing.assert_close(
        export.OneStep(made)(*rows)["next_obs_high"], step["next_obs"] + 2 * half, rtol=0, atol=2e-2
    )


def test_the_elites_are_those_that_were_chosen():
    chosen = simulator()
    chosen.dynamics.elites.copy_(torch.tensor([2, 1]))
    step = export.OneStep(chosen)(torch.tensor([[10.0, -5.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(step["reward"], torch.tensor([1.5]))


def test_one_step_is_clipped_to_the_widened_range_of_the_log():
    step = export.OneStep(simulator(margin=0.5))(torch.tensor([[10.0, -5.0, 0.0]]), torch.tensor([[500.0, 500.0]]))
    assert step["next_obs"].tolist() == [[18.0, 1.0, 2.0]]  # log's [6, 14], [-8, -2], [-1, 1], widened by half


def test_a_rule_comes_before_the_head_and_a_log_without_terminals_never_ends():
    obs, action = torch.tensor([[10.0, -5.0, 0.0], [11.5, -5.0, 0.0]]), torch.zeros(2, 2)
    assert export.OneStep(simulator(termination=far))(obs, action)["terminated"].tolist() == [0.0, 1.0]
    assert export.OneStep(simulator(spec=spec(terminals=False)))(obs, action)["terminated"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("discrete", [False, True])
def test_a_policy_comes_back_from_its_checkpoint(tmp_path, discrete):
    policy = Line(spec(discrete), gain=0.25)
    export.export_policy(policy, tmp_path)
    again = export.policy_from(tmp_path / "policy.ckpt")
    assert type(again) is Line
    assert again.spec == policy.spec
    assert not again.training
    assert torch.equal(again.gain, policy.gain)
    assert {p.name for p in tmp_path.iterdir()} == {"policy.ckpt", "policy.pt2"}


@pytest.mark.parametrize("arguments", [{}, {"termination": far}, {"spec": spec(terminals=False)}, {"spec": spec(True)}])
def test_a_simulator_comes_back_from_its_checkpoint_and_its_program_agrees(tmp_path, arguments):
    made = simulator(**arguments)
    export.export_simulator(made, tmp_path)
    again = export.simulator_from(tmp_path / "simulator.ckpt")
    program = torch.export.load(tmp_path / "simulator.pt2").module()
    obs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([11.0, -5.0, 0.0])
    action = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    wanted = export.OneStep(made)(obs, action)
    for found in (program(obs, action), export.OneStep(again)(obs, action)):
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name])


def test_exporting_does_not_touch_the_module_or_global_randomness(tmp_path):
    policy, state = Line(spec()).train(), torch.random.get_rng_state()
    export.export_policy(policy, tmp_path)
    assert policy.training
    assert policy.gain.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_policy_that_leaves_its_bounds_or_is_not_finite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite or outside its bounds"):
        export.export_policy(Overshoot(spec()), tmp_path)
    with pytest.raises(ValueError, match="not finite or outside its bounds"):
        export.export_policy(Line(spec(), gain=float("nan")), tmp_path)


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"registry_toys\.Fickle cannot be exported by torch\.export"):
        export.export_policy(Fickle(spec()), tmp_path)
    assert not (tmp_path / "policy.pt2").exists()


def test_a_program_may_round_otherwise_but_not_say_something_else(tmp_path):
    export.export_policy(Rounding(spec(), off=0.0005), tmp_path)  # a planner magnifies how its simulator rounds
    with pytest.raises(ValueError, match=r"program of registry_toys\.Rounding does not say what the module says"):
        export.export_policy(Rounding(spec(), off=0.005), tmp_path)


def test_a_simulators_program_is_compared_in_spreads_of_the_log(tmp_path):
    huge = dataclasses.replace(spec(), reward_std=1e4, reward_high=1e5)
    export.export_simulator(Simulator(Slip(huge, off=0.0005), huge, None), tmp_path)  # 5, of a reward of 0 to 2
    with pytest.raises(ValueError, match=r"registry_toys\.Slip does not say (.|\n)*'reward'"):
        export.export_simulator(Simulator(Slip(huge, off=0.005), huge, None), tmp_path)


def test_a_class_that_no_other_process_can_import_is_named(tmp_path):
    class Local(Line):
        pass

    with pytest.raises(ValueError, match="is not an importable dotted path"):
        export.export_policy(Local(spec()), tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    content = {"config": Drift(spec()).config, "spec": spec().to_dict(), "state_dict": {}}
    files.save(tmp_path / "policy.ckpt", content)
    with pytest.raises(ValueError, match=r"registry_toys\.Drift.* is not a subclass of mbrl\.core\.Policy"):
        export.policy_from(tmp_path / "policy.ckpt")


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("learner", [policies.BC, policies.SAC, policies.COMBO])
def test_every_policy_of_the_house_can_be_served(tmp_path, learner, discrete):
    policy = learner(spec(discrete), hidden=(8, 8)).policy
    export.export_policy(policy, tmp_path)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    obs = torch.randn(17, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program(obs), policy(obs))


def all_of_them(prediction):
    """Every uncertainty of the house in one number, each with a weight of its own so that none makes up for another."""
    return sum(
        weight * getattr(dynamics.uncertainty, name)(prediction)
        for weight, name in ((1, "max_aleatoric"), (2, "ensemble_std"), (4, "max_pairwise"), (8, "mixture_std"))
    )


@pytest.mark.parametrize("model", [getattr(dynamics, name) for name in dynamics.__all__])
def test_every_model_and_uncertainty_of_the_house_can_be_served(tmp_path, model):
    made = Simulator(model(spec(), members=3, elites=2), spec(), all_of_them)
    made.calibrated = True
    export.export_simulator(made, tmp_path)
    program = torch.export.load(tmp_path / "simulator.pt2").module()
    rows = export.example_step(made).values()
    wanted, found = export.OneStep(made)(*rows), program(*rows)
    assert set(found) == set(wanted)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key])


def test_exogenous_channels_are_an_input_of_the_program(tmp_path):
    made = simulator_of(driven(), std=0.1)
    export.export_simulator(made, tmp_path)
    rows = export.example(made.spec)
    assert list(rows) == ["obs", "action", "exogenous"]
    program = torch.export.load(tmp_path / "simulator.pt2").module()
    obs, action, ahead = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.0]]), torch.tensor([[-0.75]])
    found = program(obs, action, ahead)
    for name in ("next_obs", "next_obs_low", "next_obs_high"):
        assert found[name][0, 0] == -0.75
    assert found["next_obs"][0, 1] == pytest.approx(1.3)
    assert found["next_obs_high"][0, 1] - found["next_obs_low"][0, 1] == pytest.approx(2 * 0.1 * 1.6449, rel=0.01)
    with pytest.raises(ValueError, match=r"channels \[0\] are exogenous: their next values are needed"):
        export.OneStep(made)(obs, action)
