import numpy as np
import pytest
from dynamics_toys import unit_spec

from mbrl.report.strips import WINDOW, draw_episode

SPEC = unit_spec(obs_dim=3, low=-1.0, high=1.0)


def episode(steps: int, channels: int = 3) -> np.ndarray:
    """A sine in every channel; the first row has neither reward nor uncertainty."""
    rows = np.sin(np.arange(steps + 1) / 5)[:, None].repeat(channels + 2, 1).astype(np.float32)
    rows[0, -2:] = np.nan
    return rows


@pytest.mark.parametrize(("uncertain", "strips"), [(False, 4), (True, 5)])
def test_every_frame_of_an_episode_has_one_even_size(uncertain: bool, strips: int) -> None:
    frames = [draw_episode(episode(steps), SPEC, uncertain) for steps in (0, 1, 250)]
    assert {frame.shape for frame in frames} == {(106 + 62 * strips, 640, 3)}
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert (frames[0] != frames[1]).any()


def test_only_the_last_steps_are_shown() -> None:
    one, other = episode(300), episode(300)
    other[: 300 - WINDOW, :3] += 0.5
    assert np.array_equal(draw_episode(one, SPEC, False), draw_episode(other, SPEC, False))
    other[-1, :3] += 0.5
    assert not np.array_equal(draw_episode(one, SPEC, False), draw_episode(other, SPEC, False))


def test_of_many_channels_the_first_are_drawn() -> None:
    frame = draw_episode(episode(5, 20), unit_spec(obs_dim=20, low=-1.0, high=1.0), False)
    assert frame.shape == (106 + 62 * 13, 640, 3)


def test_a_channel_that_is_not_finite_leaves_a_gap() -> None:
    gap = episode(50)
    gap[20:30, 1] = np.inf
    assert not np.array_equal(draw_episode(gap, SPEC, False), draw_episode(episode(50), SPEC, False))


def test_a_channel_that_stood_still_in_the_log_is_drawn() -> None:
    assert draw_episode(episode(9), unit_spec(obs_dim=3, low=0.0, high=0.0), True).shape == (106 + 62 * 5, 640, 3)
