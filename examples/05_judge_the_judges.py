"""Judge the judges: make policies of very different worth, and see which estimators tell the good ones from the bad.

mbrl demo                                        (registers pendulum-simulator, and keeps a second simulator with it)
python examples/05_judge_the_judges.py --simulator models:/pendulum-simulator/1 --env Pendulum-v1

The ladder: behaviour cloning, SAC at several ages with and without a penalty, and the last of these made worse on
purpose. All are registered as versions of NAME-policy; `mbrl evaluate --judge` then compares estimates with the truth.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from mbrl.__main__ import main
from mbrl.core import seeded
from mbrl.data import minari
from mbrl.registry import models
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog
from mbrl.training.policy import fit_policy
from policies import BC, SAC, Perturbed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--id", default="mbrl/pendulum-mediocre-v0", help="Minari id of the log")
parser.add_argument("--simulator", default="models:/pendulum-simulator/1")
parser.add_argument("--name", default="ladder")
parser.add_argument("--env", default="Pendulum-v1")
parser.add_argument("--ages", type=int, nargs="+", default=[1000, 3000, 10000], help="updates at which SAC is kept")
parser.add_argument("--episodes", type=int, default=20, help="true episodes to measure each policy on")
options, judge_settings = parser.parse_known_args()  # further settings go to `mbrl evaluate`

log, simulator = minari.load(options.id), models.load_simulator(options.simulator)
real, lineage = log.batch(), Lineage.of(log, options.simulator.removeprefix("models:/"))

with RunLog.open("mbrl", options.name) as record, tempfile.TemporaryDirectory() as folder:

    def keep(policy, what):
        version = models.log_policy(record, policy, options.name, lineage)
        print(f"{options.name}-policy/{version}: {what}")

    with seeded(0, "ladder"):
        cloning = BC(simulator.spec)
    fit_policy(cloning, real, updates=options.ages[0], label="cloning")
    keep(cloning.policy, "behaviour cloning")
    for penalty in (0.5, 0.0):
        with seeded(0, "ladder"):
            sac = SAC(simulator.spec, hidden=[128, 128], actor_lr=3e-4)
        checkpoint = Path(folder, f"{penalty}.ckpt")
        for age in options.ages:  # each goes on from the checkpoint of the age before
            fit_policy(sac, real, simulator, updates=age, real_ratio=0.2, penalty=penalty, checkpoint=checkpoint)
            keep(sac.policy, f"SAC after {age:,} updates, penalty {penalty}")
    keep(Perturbed.of(sac.policy, flip=True), "the last one, mirrored")
    keep(Perturbed.of(sac.policy, noise=0.9), "the last one, drowned in noise")

ladder = ["--policy", f"models:/{options.name}-policy", "--episodes", str(options.episodes), *judge_settings]
sys.exit(main(["evaluate", "--judge", "--env", options.env, "--data", options.id, *ladder]))
