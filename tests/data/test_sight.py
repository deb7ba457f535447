"""How far back one has to look: a plant that is blinded or delayed asks for a history, others do not."""

from dataclasses import replace

import pytest
import torch

from mbrl.core import generator
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.sight import sight
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.modelbased import start_states

ROWS, LENGTH = 3000, 100


def cart(delay: int = 0, lengths: int = LENGTH, exogenous: tuple[int, ...] = ()) -> TransitionDataset:
    """Place and speed of a cart with a little friction, pushed at random: the push arrives `delay` rows late."""
    rng = generator(0, "test")
    state, rows = torch.zeros(2), []
    pushes = torch.rand(ROWS, generator=rng) * 2 - 1
    for k in range(ROWS):
        if k % lengths == 0:
            state = torch.randn(2, generator=rng)
        push = pushes[k - delay] if k % lengths >= delay else torch.tensor(0.0)
        speed = 0.95 * state[1] + 0.3 * push + 0.002 * torch.randn((), generator=rng)
        after = torch.stack([state[0] + 0.1 * speed, speed])
        rows.append((state, after))
        state = after
    before, after = (torch.stack(column) for column in zip(*rows, strict=True))
    last = torch.arange(ROWS) % lengths == lengths - 1
    return TransitionDataset.create(
        "toy/cart-v0",
        obs=before,
        action=pushes.unsqueeze(1),
        reward=-before[:, 0].square(),
        next_obs=after,
        terminated=torch.zeros(ROWS, dtype=torch.bool),
        truncated=last,
        episode=torch.arange(ROWS) // lengths,
        action_low=[-1.0],
        action_high=[1.0],
        discrete=False,
        exogenous=list(exogenous),
    )


def blind(log: TransitionDataset) -> TransitionDataset:
    """The same log, of the place alone."""
    return replace(log, obs=log.obs[:, :1], next_obs=log.next_obs[:, :1], channels=("place",), units=())


def test_a_plant_that_shows_its_state_asks_for_no_history() -> None:
    assert sight(cart(), 0).history == 1
    assert "hidden state" not in {f.kind for f in audit(cart()).findings}


def test_a_speed_that_was_not_logged_asks_for_one_more() -> None:
    found = sight(blind(cart()), 0)
    assert (found.history, found.channels) == (2, ("place",))
    assert found.told < 0.03 < 0.2 < found.alone


@pytest.mark.parametrize(("delay", "history"), [(1, 2), (2, 3), (4, 5)])
def test_a_late_answer_asks_for_the_rows_between(delay: int, history: int) -> None:
    found = sight(cart(delay), 0)
    assert (found.history, found.channels) == (history, ("observation 0", "observation 1"))


def test_what_is_exogenous_asks_for_nothing() -> None:
    assert sight(cart(2, exogenous=(1,)), 0).channels == ("observation 0",)


def test_episodes_that_are_too_short_for_it_say_nothing() -> None:
    assert sight(blind(cart(lengths=1)), 0).history == 1
    assert sight(blind(cart(lengths=3)), 0).history == 2  # only two rows of three have another before them


def test_the_audit_says_so_until_the_history_is_set() -> None:
    (finding,) = [f for f in audit(blind(cart())).findings if f.kind == "hidden state"]
    assert finding.severity == "serious"
    assert "of the change of place unexplained, the last 2 leave" in finding.found
    assert finding.remedy == "set data.history to 2, or to auto, or log what is missing"
    assert "hidden state" not in {f.kind for f in audit(blind(cart()), history=2).findings}


@pytest.mark.parametrize(("history", "unread"), [(1, 1), (2, 0), (3, 0)])
def test_the_gate_is_told_how_much_of_it_nobody_reads(history: int, unread: int) -> None:
    data = windowed(blind(cart()), history)
    assert sight(data, 0) == sight(blind(cart()), 0)
    episodes = torch.arange(data.episodes)
    assert Bench(data, episodes, None, start_states(data, 4, 0), 0.9, 0.9, 0, 10).unread() == unread
