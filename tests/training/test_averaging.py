"""The average of a policy's weights: by hand, in a fit, and over a resumption."""

from pathlib import Path

import pytest
import torch

from mbrl.bench import hopper_sized
from mbrl.core import seeded
from mbrl.training.averaging import Average
from mbrl.training.policy import PolicyReport, fit_policy
from policies import BC
from policies.actors import Deterministic

SPEC, ROWS = hopper_sized(200, 0)[:2]


def cloning() -> BC:
    with seeded(0, "average"):
        return BC(SPEC, hidden=(8,))


def test_the_first_weights_are_averaged_evenly_and_later_ones_exponentially() -> None:
    policy = Deterministic(SPEC, (4,))
    average, told = Average(policy, 2), []
    weight = next(policy.parameters())
    for done, value in enumerate((3.0, 6.0, 9.0, 12.0), start=1):
        weight.data.fill_(value)
        average.follow(policy, done)
        told.append(float(next(average.module.parameters()).flatten()[0]))
    assert told == pytest.approx([3.0, 4.5, 6.75, 9.375])
    assert not any(p.requires_grad for p in average.module.parameters())


def test_one_that_goes_on_follows_as_slowly_as_it_did() -> None:
    policy = Deterministic(SPEC, (4,))
    weight = next(policy.parameters())
    weight.data.fill_(4.0)
    average, young = Average(policy, 10, past=1000), Average(policy, 10, past=3)
    weight.data.fill_(14.0)
    for one in average, young:
        one.follow(policy, 1)
    assert [float(next(one.module.parameters()).flatten()[0]) for one in (average, young)] == pytest.approx([5.0, 6.5])


def test_a_fit_goes_on_from_the_average_of_an_earlier_one() -> None:
    earlier = fit_policy(cloning(), ROWS, updates=20, batch_size=16, average=10).policy
    before = [parameter.clone() for parameter in earlier.parameters()]
    learner = cloning()
    later = fit_policy(learner, ROWS, updates=1, batch_size=16, average=10, averaged=(earlier, 20)).policy
    rows = zip(before, earlier.parameters(), learner.policy.parameters(), later.parameters(), strict=True)
    for kept, old, last, new in rows:
        assert torch.equal(kept, old)
        torch.testing.assert_close(new, kept + (last - kept) / 10)


def test_a_fit_reports_the_average_and_leaves_the_learner_its_own_weights() -> None:
    plain, averaged = cloning(), cloning()
    last = fit_policy(plain, ROWS, updates=20, batch_size=16)
    mean = fit_policy(averaged, ROWS, updates=20, batch_size=16, average=10)
    obs = ROWS.obs[:5]
    assert last.policy is plain.policy
    assert torch.equal(averaged.policy.act(obs, None), plain.policy.act(obs, None))
    assert not torch.allclose(mean.policy.act(obs, None), plain.policy.act(obs, None))


def test_an_average_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(folder: Path, updates: int) -> PolicyReport:
        path = folder / "policy.ckpt"
        return fit_policy(cloning(), ROWS, updates=updates, batch_size=16, average=5, checkpoint=path)

    (tmp_path / "two").mkdir()
    run(tmp_path / "two", 12)
    through, resumed = run(tmp_path, 30), run(tmp_path / "two", 30)
    for one, other in zip(through.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="average was 5, is None"):
        fit_policy(cloning(), ROWS, updates=30, batch_size=16, checkpoint=tmp_path / "policy.ckpt")
    with pytest.raises(ValueError, match="average is 0, expected at least 1"):
        fit_policy(cloning(), ROWS, updates=1, average=0)
