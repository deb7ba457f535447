"""Rehearse a policy in a registered simulator, and see what it is worth there, beside behaviour cloning.

mbrl demo                                           (registers pendulum-simulator)
python examples/02_rehearse_a_policy.py --simulator models:/pendulum-simulator/1
"""

import argparse

from mbrl.core import seeded
from mbrl.data import minari
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.registry.models import load_simulator
from mbrl.training.policy import fit_policy
from policies import BC, SAC

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--id", default="mbrl/pendulum-mediocre-v0", help="Minari id of the log")
parser.add_argument("--simulator", default="models:/pendulum-simulator/1")
parser.add_argument("--updates", type=int, default=3000)
options = parser.parse_args()

log = minari.load(options.id)
simulator = load_simulator(options.simulator)  # every file is verified by SHA-256 first
real = log.batch()

with seeded(0, "example"):
    sac, cloning = SAC(simulator.spec, hidden=[128, 128], actor_lr=3e-4), BC(simulator.spec)
fit_policy(cloning, real, updates=options.updates)
report = fit_policy(sac, real, simulator, updates=options.updates, real_ratio=0.2, horizon=5, penalty=0.5)
print(f"{report.updates:,} updates on {report.imagined_rows:,} imagined rows: {report.pace}")

starts = start_states(log, most=100, seed=0)
candidates = {"cloning": cloning.policy, "SAC": sac.policy}
values = simulated_values(candidates, simulator, starts, gamma=1.0, level=0.95, seed=0)
print(f"mean logged return: {log.returns().mean():.1f}")
print("values in the simulator that SAC has learned in flatter it: `mbrl evaluate` asks a second one")
for name, value in values.items():
    print(f"{name:>8}: {value.value:.1f} [{value.low:.1f}, {value.high:.1f}] over {len(starts.obs)} simulated episodes")
