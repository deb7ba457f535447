"""How far back one has to look: a plant that is blinded or delayed asks for a history, others do not."""

from dataclasses import replace

import pytest
import torch
from audit_toys import logged

from mbrl.core import generator
from mbrl.data import refit
from mbrl.data.audit import audit
from mbrl.data.channels import Past, sensors
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.refit import EPOCHS, LANDMARKS
from mbrl.data.sight import Sight, seen, sight
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.modelbased import start_states

pytestmark = pytest.mark.usefixtures("coarse")

ROWS, LENGTH = 1500, 100


def cart(
    delay: int = 0, lengths: int = LENGTH, exogenous: tuple[int, ...] = (), count: int = ROWS
) -> TransitionDataset:
    """Place and speed of a cart with a little friction, pushed at random: the push arrives `delay` rows late."""
    rng = generator(0, "test")
    state, rows = torch.zeros(2), []
    pushes = torch.rand(count, generator=rng) * 2 - 1
    for k in range(count):
        if k % lengths == 0:
            state = torch.randn(2, generator=rng)
        push = pushes[k - delay] if k % lengths >= delay else torch.tensor(0.0)
        speed = 0.95 * state[1] + 0.3 * push + 0.002 * torch.randn((), generator=rng)
        after = torch.stack([state[0] + 0.1 * speed, speed])
        rows.append((state, after))
        state = after
    before, after = (torch.stack(column) for column in zip(*rows, strict=True))
    episode = torch.arange(count) // lengths
    reward = -before[:, 0].square()
    return logged(before, pushes.unsqueeze(1), reward, after, episode, exogenous=list(exogenous))


def asked(log: TransitionDataset, seed: int = 0) -> Sight:
    found = sight(log, seed)
    assert found is not None
    return found


def blind(log: TransitionDataset) -> TransitionDataset:
    """The same log, of the place alone."""
    return replace(log, obs=log.obs[:, :1], next_obs=log.next_obs[:, :1], channels=("place",), units=())


def test_a_plant_that_shows_its_state_asks_for_no_history() -> None:
    assert asked(cart()).history == 1
    assert "hidden state" not in {f.kind for f in audit(cart()).findings}


def test_a_speed_that_was_not_logged_asks_for_one_more() -> None:
    found = asked(blind(cart()))
    assert (found.history, found.channels) == (2, ("place",))
    assert found.told < 0.03 < 0.2 < found.alone


@pytest.mark.parametrize(("delay", "history"), [(1, 2), (2, 3), (4, 5)])
def test_a_late_answer_asks_for_the_rows_between(delay: int, history: int) -> None:
    found = asked(cart(delay))
    assert (found.history, found.channels) == (history, ("observation 0", "observation 1"))


def test_what_is_exogenous_asks_for_nothing() -> None:
    assert asked(cart(2, exogenous=(1,))).channels == ("observation 0",)


def test_the_rounding_of_a_time_is_no_hidden_state() -> None:
    """Unix seconds, a minute from row to row: as float32 numbers they lie 128 apart, and stand still or leap."""
    plain = cart()
    seconds = 1.7e9 + 60.0 * torch.arange(ROWS + 1, dtype=torch.float64)[:, None]
    obs = torch.cat([plain.obs, seconds[:-1].float()], 1)
    next_obs = torch.cat([plain.next_obs, seconds[1:].float()], 1)
    log = logged(obs, plain.action, plain.reward, next_obs, plain.episode)
    assert asked(log).history == 1
    (found,) = [f for f in sensors(log, Past.of(log)) if f.kind == "coarse sensor"]
    assert (found.severity, found.channels) == ("warning", ("observation 2",))
    assert "float32 numbers lie 128 apart" in found.found


def test_episodes_that_are_too_short_for_it_say_nothing() -> None:
    silent = blind(cart(lengths=1))
    assert sight(silent, 0) is None
    assert seen(silent, "auto", 0).history == 1
    assert "hidden state" not in {f.kind for f in audit(silent).findings}
    assert asked(blind(cart(lengths=3))).history == 2  # only two rows of three have another before them


def test_a_delay_of_one_channel_is_not_outvoted_by_the_others() -> None:
    """Six carts without their speed need two observations, and a tank hears its valve six rows late."""
    rng, count = generator(0, "test"), 6
    rows, places, speeds, level = [], torch.zeros(count), torch.zeros(count), torch.zeros(())
    acts = torch.rand(ROWS, count + 1, generator=rng) * 2 - 1
    for k in range(ROWS):
        valve = acts[k - 6, count] if k % LENGTH >= 6 else torch.tensor(0.0)
        before = torch.cat([places, level[None]])
        speeds = 0.97 * speeds - 0.02 * places + 0.05 * acts[k, :count]
        level = 0.8 * level + 0.5 * places[0] + 0.15 * valve
        places = places + speeds
        rows.append((before, torch.cat([places, level[None]])))
        if k % LENGTH == LENGTH - 1:
            places, speeds, level = torch.randn(count, generator=rng), torch.zeros(count), torch.zeros(())
    obs, after = (torch.stack(column) for column in zip(*rows, strict=True))
    found = asked(logged(obs, acts, -obs[:, count].abs(), after, torch.arange(ROWS) // LENGTH))
    assert found.history == 9
    assert "observation 6" in found.channels


def test_a_plant_that_the_refit_is_too_coarse_for_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pendulum that goes round and round, by its whole angle: the last change says nearly what the next one is."""
    monkeypatch.setattr(refit, "LANDMARKS", LANDMARKS)
    monkeypatch.setattr(refit, "EPOCHS", EPOCHS)  # the network, which has the last word, takes all of them for that
    rng, rows = generator(0, "test"), []
    push = torch.rand(8_000, 1, generator=rng) * 2 - 1
    for k in range(len(push)):
        if k % 200 == 0:
            angle, speed = torch.rand((), generator=rng) * 6 - 3, torch.randn((), generator=rng)
        faster = speed + 0.05 * (9.8 * angle.sin() + 5 * push[k, 0])
        rows.append((torch.stack([angle, speed]), torch.stack([angle + 0.05 * faster, faster])))
        angle, speed = rows[-1][1]
    obs, after = (torch.stack(column) for column in zip(*rows, strict=True))
    assert asked(logged(obs, push, -obs.square().sum(1), after, torch.arange(len(push)) // 200)).history == 1


def test_one_long_episode_does_not_end_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbrl.data.sight.ROWS", 1000)
    log, episode = cart(2, count=3000), torch.where(torch.arange(3000) < LENGTH, 0, 1)  # of 100 rows, and of 2900
    uneven = logged(log.obs, log.action, log.reward, log.next_obs, episode)
    assert [asked(uneven, seed).history for seed in (0, 1)] == [3, 3]


def test_the_audit_says_so_until_the_history_is_set() -> None:
    (finding,) = [f for f in audit(blind(cart())).findings if f.kind == "hidden state"]
    assert finding.severity == "serious"
    assert "of the change of place unexplained, the last 2 leave" in finding.found
    assert finding.remedy == "set data.history to 2, or to auto, or log what is missing"
    assert "hidden state" not in {f.kind for f in audit(blind(cart()), history=2).findings}


@pytest.mark.parametrize(("history", "unread"), [(1, 1), (3, 0)])
def test_the_gate_is_told_how_much_of_it_nobody_reads(history: int, unread: int) -> None:
    data = windowed(blind(cart()), history)
    bench = Bench(data, torch.arange(data.episodes), None, start_states(data, 4, 0), 0.9, 0.9, 0, 10)
    assert bench.unread() == unread
