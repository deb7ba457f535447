"""Fit a simulator to a log, and ask it what it knows.

python examples/01_fit_a_simulator.py --id mbrl/pendulum-mediocre-v0     (a log that `mbrl demo` writes)
"""

import argparse

import torch

from dynamics import ProbabilisticEnsemble
from dynamics.uncertainty import ensemble_std
from mbrl.core import generator, seeded
from mbrl.data import minari
from mbrl.data.source import Streamed
from mbrl.simulator.simulator import Simulator
from mbrl.training.dynamics import fit_dynamics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--id", default="mbrl/pendulum-mediocre-v0", help="Minari id of the log")
parser.add_argument("--epochs", type=int, default=20)
options = parser.parse_args()

log = minari.load(options.id)
learn, held = log.split([0.9, 0.1], seed=0)  # by episode: neighbours in time stay on one side
spec = log.spec(learn)
holdout = log.batch(log.rows(held))

with seeded(0, "example"):
    model = ProbabilisticEnsemble(spec, members=5, elites=3, hidden=128, layers=2)
rows = Streamed(log, learn, resident=256 << 20, seed=0)  # of a log of more than 256 MiB one part after the other
report = fit_dynamics(model, rows, holdout, seed=0, max_epochs=options.epochs)
print(f"hold-out error of each member, in units of the log's spread: {[round(s, 4) for s in report.scores]}")

simulator = Simulator(model, spec, ensemble_std)
simulator.calibrate(holdout)  # uncertainty 1 = its 95 % quantile on held-out rows
step = simulator.step(holdout.obs, holdout.action, generator(0, "noise"))
error = (step.next_obs - holdout.next_obs).abs().mean(0)
print(f"one step ahead, mean absolute error of a drawn state, per channel: {[round(e, 4) for e in error.tolist()]}")

far = holdout.obs + 3 * torch.tensor(spec.obs_std)  # states that the log does not hold
doubt = simulator.step(far, holdout.action, generator(0, "noise")).uncertainty.median()
print(f"median uncertainty: {step.uncertainty.median():.2f} on the log, {doubt:.2f} far away from it")
