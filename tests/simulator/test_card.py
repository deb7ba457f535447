"""The report card: its numbers in a world whose answers are known, its verdict, and what it refuses."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import NOISE, A, B, C, Known, linear_world, unit_spec
from torch import Tensor, nn

from dynamics.terminations import never
from mbrl.core import Batch, Dynamics, Prediction, Spec, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import halves
from mbrl.simulator.card import Card, report_card
from mbrl.simulator.onestep import termination_skill
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.verdict import judge


class Truth(Dynamics):
    """The linear world itself: two members that both know its mean and its noise, and how unsure they are of it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, 2)
        self.weight = nn.Parameter(torch.zeros(2, 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return self.weight.squeeze(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        count = self.members if members is None else len(members)
        obs, action = (x.expand(count, *x.shape[-2:]) for x in (obs, action))
        mean = obs @ A.T + action @ B.T
        std = NOISE.expand(*mean.shape[:-1], 3)
        return Prediction(mean, std[..., :2], obs @ C, std[..., 2], torch.ones(3))


def first_std(prediction: Prediction) -> Tensor:
    return prediction.obs_std[0, :, 0]


def walk(episodes: int = 40, length: int = 30, seed: int = 0, ends: bool = False) -> TransitionDataset:
    """Episodes of the linear world, one after the other."""
    rng = generator(seed, "walk")
    obs, rows = torch.randn(episodes, 2, generator=rng), []
    for _ in range(length):
        action = 2 * torch.rand(episodes, 1, generator=rng) - 1
        noise = NOISE * torch.randn(episodes, 3, generator=rng)
        next_obs = obs @ A.T + action @ B.T + noise[:, :2]
        rows.append((obs, action, obs @ C + noise[:, 2], next_obs))
        obs = next_obs
    obs, action, reward, next_obs = (torch.stack(x, 1).flatten(0, 1) for x in zip(*rows, strict=True))
    last = torch.arange(episodes * length) % length == length - 1
    return TransitionDataset.create(
        "toy/walk-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=last if ends else torch.zeros_like(last),
        truncated=torch.zeros_like(last) if ends else last,
        episode=torch.arange(episodes).repeat_interleave(length),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


DATA = walk()
HALVES = halves(DATA, torch.arange(40), 0)


def made(**arguments: Any) -> Simulator:
    spec = DATA.spec(torch.arange(40))
    simulator = Simulator(Truth(spec), spec, margin=5.0, **arguments)
    simulator.calibrate(DATA.batch(DATA.rows(HALVES[0])))
    return simulator


def card(simulator: Simulator, data: TransitionDataset = DATA, measured: Tensor = HALVES[1], **arguments: Any) -> Card:
    about = {"versions": {}}
    return report_card(simulator, data, measured, calibrated_on=HALVES[0], seed=0, about=about, **arguments)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return card(made(), horizon=12).numbers


def test_it_is_json_without_nan(whole: dict[str, Any]) -> None:
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_the_world_itself_is_calibrated_and_sharp(whole: dict[str, Any]) -> None:
    one = whole["one_step"]
    assert one["mean"]["calibration_error"] < 0.03
    assert one["mean"]["coverage"]["90%"] == pytest.approx(0.9, abs=0.03)
    assert one["mean_absolute_error"] == pytest.approx((NOISE * (2 / torch.pi) ** 0.5).tolist(), rel=0.1)
    assert one["sharpness"] == pytest.approx(NOISE.tolist(), rel=0.1)
    assert one["crps"] == pytest.approx((NOISE / torch.pi**0.5).tolist(), rel=0.1)
    assert [sum(channel) for channel in zip(*one["pit"], strict=True)] == pytest.approx([1.0] * 3)
    assert list(one["coverage"]) == ["50%", "80%", "90%", "95%"]


def test_the_world_itself_is_followed(whole: dict[str, Any]) -> None:
    loop, trusted = whole["open_loop"], whole["trusted_horizon"]
    assert len(loop["error"]) == len(loop["coverage"]) == 12
    assert loop["error"][0] == pytest.approx(NOISE.tolist(), rel=0.15)
    assert loop["error"][5][0] > loop["error"][0][0]
    assert min(row[0] for row in loop["coverage"]) > 0.8
    assert trusted["weakest"] in ("observation 0", "observation 1")
    assert trusted["steps"] == min(trusted["channels"][:2])


def test_the_card_says_what_was_measured(whole: dict[str, Any]) -> None:
    assert whole["data"] == {
        "id": DATA.id,
        "fingerprint": DATA.fingerprint,
        "episodes": 20,
        "rows": 600,
        "calibration_episodes": 20,
        "crossed": False,
        "measured_on_calibration": False,
    }
    assert whole["channels"] == ["observation 0", "observation 1", "reward"]
    assert whole["termination"] is None


def test_names_and_units_are_carried() -> None:
    named = replace(DATA, channels=("level", "flow"), units=("m", "l/s"))
    numbers = card(made(), named, horizon=2).numbers
    assert numbers["channels"] == ["level", "flow", "reward"]
    assert numbers["units"] == ["m", "l/s", ""]


def test_an_uncertainty_that_is_the_same_everywhere_is_worth_nothing() -> None:
    numbers = card(made(uncertainty=first_std), horizon=2).numbers
    assert numbers["uncertainty"]["spearman"] is None
    assert numbers["uncertainty"]["function"] == "first_std"
    assert any("the same everywhere" in reason["text"] for reason in numbers["verdict"]["reasons"])


def test_a_card_is_the_same_again_and_touches_no_global_generator() -> None:
    state = torch.random.get_rng_state()
    assert card(made(), horizon=3).numbers == card(made(), horizon=3).numbers
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_horizon_ends_with_the_longest_episode() -> None:
    short = walk(30, 4, seed=3)
    numbers = card(made(), short, torch.arange(30)).numbers
    assert numbers["trusted_horizon"]["followed"] <= 4


def test_ends_are_scored_against_the_base_rate() -> None:
    ends = torch.tensor([True, False, False, False])
    skill = termination_skill(torch.tensor([0.8, 0.1, 0.0, 0.1]), ends)
    assert skill is not None
    assert (skill["ends"], skill["auroc"]) == (1, 1.0)
    assert skill["brier"] == pytest.approx((0.04 + 0.01 + 0.01) / 4)
    assert float(skill["brier_of_rate"]) == pytest.approx(0.25 * 0.75)
    data = walk(ends=True)
    numbers = card(made(termination=never), data).numbers
    assert numbers["termination"]["brier"] == pytest.approx(20 / 600)


def test_what_cannot_be_graded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no held-out episodes of toy/walk-v0.*hold out at least one \(data\.split\)"):
        card(made(), measured=torch.arange(0))
    with pytest.raises(ValueError, match="not calibrated: call calibrate"):
        card(Simulator(made().dynamics, made().spec))
    other = Simulator(Known(unit_spec()), unit_spec())
    other.calibrate(Batch(*(x[:5, ...] if x.dim() == 1 else x[:5, :1] for x in linear_world(9, 0))))
    with pytest.raises(ValueError, match=r"\(2, 1, False\).*\(1, 1, False\)"):
        card(other)


def test_episodes_that_were_calibrated_on_are_told() -> None:
    numbers = card(made(), measured=HALVES[0], horizon=2).numbers
    assert numbers["data"]["measured_on_calibration"]
    assert any("same episodes" in reason["text"] and not reason["good"] for reason in numbers["verdict"]["reasons"])


@pytest.fixture
def good(whole: dict[str, Any]) -> dict[str, Any]:
    """Numbers that nothing speaks against."""
    numbers = copy.deepcopy(whole)
    numbers["one_step"]["mean"] = {"coverage": {"90%": 0.9}, "calibration_error": 0.01}
    numbers["trusted_horizon"] |= {"steps": 12, "followed": 12}
    numbers["uncertainty"]["spearman"] = 0.7
    return numbers


def test_the_verdict_counts_what_speaks_against(good: dict[str, Any]) -> None:
    verdict = judge(good)
    assert verdict["grade"] == "good"
    assert verdict["sentence"] == "The simulator can be followed for 12 steps, and it knows where it is unsure."
    assert all(reason["good"] for reason in verdict["reasons"])


@pytest.mark.parametrize(
    ("path", "value", "grade", "text"),
    [
        (("one_step", "mean", "coverage", "90%"), 0.95, "with care", "hold 95.0% of the log"),
        (("one_step", "mean", "coverage", "90%"), 0.87996, "with care", "hold 87.9% of the log (expected 88% to 92%)"),
        (("one_step", "mean", "coverage", "90%"), 0.92004, "with care", "hold 92.1% of the log (expected 88% to 92%)"),
        (("one_step", "mean", "calibration_error"), 0.2, "with care", "error is 0.200"),
        (("trusted_horizon", "steps"), 2, "with care", "up to step 2; observation"),
        (("trusted_horizon", "steps"), 0, "poor", "up to step 0; observation"),
        (("uncertainty", "spearman"), 0.1, "with care", "with 0.10"),
        (("termination",), {"ends": 3, "auroc": 0.5, "brier": 0.3, "brier_of_rate": 0.2}, "with care", "Brier"),
    ],
)
def test_each_number_can_spoil_it(good: dict[str, Any], path: Any, value: Any, grade: str, text: str) -> None:
    place = good
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    verdict = judge(good)
    assert verdict["grade"] == grade
    (reason,) = [r for r in verdict["reasons"] if not r["good"]]
    assert text in reason["text"]


def test_who_is_trusted_for_no_step_hears_which_channel_it_is_and_what_to_do(good: dict[str, Any]) -> None:
    good["trusted_horizon"] |= {"steps": 0, "weakest": "meal"}
    told = (
        "The simulator can be followed not even for one step, for meal: declare that exogenous if nothing in the plant"
    )
    assert judge(good)["sentence"].startswith(told)
    row = {"channel": "meal", "unit": "", "mean_absolute_error": 0.0, "spread_of_change": 1.0, "agrees": True}
    good["computed"] = [row]  # which cannot be declared exogenous
    assert "for meal: use the simulator with short rollouts and a penalty" in judge(good)["sentence"]


def test_what_is_a_matter_of_chance_is_named(good: dict[str, Any]) -> None:
    good["trusted_horizon"]["chance"] = ["demand"]
    verdict = judge(good)
    assert verdict["grade"] == "good"
    assert any(r["text"].startswith("what demand is next is a matter of chance") for r in verdict["reasons"])


def test_each_half_is_graded_with_the_intervals_that_the_other_taught() -> None:
    simulator, (one, other) = made(), HALVES
    simulator.calibrate(DATA.batch())
    whole = torch.cat([one, other])
    crossed = report_card(
        simulator, DATA, whole, calibrated_on=whole, seed=0, about={}, crossed=(one, other), horizon=2
    ).numbers
    assert (crossed["data"]["crossed"], crossed["data"]["measured_on_calibration"]) == (True, False)
    single, rows = [], []
    for measured, taught in ((one, other), (other, one)):
        world = made()
        world.calibrate(DATA.batch(DATA.rows(taught)))
        numbers = report_card(world, DATA, measured, calibrated_on=taught, seed=0, about={}, horizon=2).numbers
        single.append(numbers["one_step"])
        rows.append(len(DATA.rows(measured)))
    for name in "crps", "interval_width", "interval_score", "mean_absolute_error":
        mean = [sum(n * part[name][c] for n, part in zip(rows, single, strict=True)) / sum(rows) for c in range(3)]
        assert crossed["one_step"][name] == pytest.approx(mean, rel=1e-4)
    covered = [part["mean"]["coverage"]["90%"] for part in single]
    mean = sum(n * share for n, share in zip(rows, covered, strict=True)) / sum(rows)
    assert crossed["one_step"]["mean"]["coverage"]["90%"] == pytest.approx(mean)
    assert crossed["one_step"]["std_scale"] == pytest.approx(simulator.recalibration.scale.tolist())


def test_halves_share_no_episode_and_one_alone_has_none() -> None:
    one, other = halves(DATA, torch.tensor([3, 5, 7, 11, 13]), 0)
    assert (len(one), len(other)) == (3, 2)
    assert sorted([*one.tolist(), *other.tolist()]) == [3, 5, 7, 11, 13]
    assert halves(DATA, torch.tensor([4]), 0) == ()
