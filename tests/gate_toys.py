"""Rules and evidence of a gate, with round numbers."""

from mbrl.evaluation.estimates import Estimate
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, LOG, CardFacts, Evidence, View
from mbrl.registry.rules import Rules

RULES = Rules(
    version="test",
    kinds=("model", "fqe"),
    combination="median",
    ranking="lowest",
    choice="model",
    tie=0.1,
    level=0.9,
    least_gain_over_log=0.0,
    least_gain_by_choice=0.0,
    most_loss_to_cloning=0.0,
    least_gain_over_champion=0.0,
    harmful_loss=0.0,
    least_agreement=1.0,
    least_effective_n=10,
    most_outside=0.3,
    most_doubt=0.2,
    most_unread=0,
    least_support=0.5,
    most_tail_loss=0.1,
    most_cost=7.0,
    grades=("good", "with care"),
    least_card_coverage=0.8,
    least_trusted_horizon=5,
    second_person=False,
)


def view(low: float, value: float, high: float, spread: float = 10.0, n: float = 30) -> View:
    """A view in which the candidate gains the same over everybody."""
    gain = Estimate(value, low, high, n)
    log = Estimate(100.0, 90.0, 110.0, 50)
    values = {LOG: log, CLONING: log, CANDIDATE: Estimate(100 + value, 100 + low, 100 + high, 3)}
    return View(1.0, spread, values, {LOG: gain, CLONING: gain, CHAMPION: gain})


GOOD = Evidence(
    level=0.9,
    views={"model": view(20, 30, 40), "fqe": view(4, 8, 12, spread=2.0)},
    refused={},
    fingerprints={"log": "f" * 64, "card": "f" * 64},
    hashes={"judge.ckpt": ("a" * 64, "a" * 64)},
    card=CardFacts("good", 0.9, 12),
    champion="3",
    outside=0.2,
    doubt=0.1,
    support=0.9,
    unread=0,
    tail=0.5,
    cost=Estimate(5.0, 4.0, 6.0, 30),
)
