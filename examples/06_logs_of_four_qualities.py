"""Logs of four qualities, of one continuous and one discrete task, to compare learners on:

python examples/06_logs_of_four_qualities.py                      (bench/pendulum-random-v0 ... bench/cartpole-good-v0)
mbrl compare --data bench/pendulum-poor-v0,bench/cartpole-poor-v0 --env Pendulum-v1,CartPole-v1 --learners iql,mopo

random: any action. poor: a controller that hardly works. good: one that works, disturbed a little. mixed: a third of
each. Every logger disturbs its actions, since a log without any variety teaches nothing.
"""

import argparse
from functools import partial
from itertools import chain

import numpy as np

from mbrl import environments, playing
from mbrl.data import minari

SKILLS = {"random": 0.0, "poor": 0.35, "good": 0.9}  # share of the actions that the controller chooses well


def swing_up(obs: np.ndarray) -> np.ndarray:
    """Pump energy until the pendulum is nearly upright, then balance it."""
    cosine, sine, speed = obs
    energy = 0.5 * speed**2 / 3 + 5 * (cosine - 1)  # 0 when it stands still upright
    torque = -12 * np.arctan2(sine, cosine) - 3 * speed if cosine > 0.8 else -2 * np.sign(energy) * np.sign(speed)
    return np.clip([torque], -2, 2).astype(np.float32)


def balance(obs: np.ndarray) -> int:
    """Push the cart under the pole, and back to the middle."""
    place, velocity, angle, spin = obs
    return int(angle + 0.5 * spin + 0.05 * place + 0.1 * velocity > 0)


def act(obs: np.ndarray, rng: np.random.Generator, skill: float, discrete: bool) -> np.ndarray | int:
    """The controller's action, or a random one."""
    if rng.random() < skill:
        return balance(obs) if discrete else swing_up(obs)
    return int(rng.integers(2)) if discrete else rng.uniform(-2, 2, 1).astype(np.float32)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--episodes", type=int, default=100, help="of Pendulum; five times as many of CartPole, whose are short"
)
parser.add_argument("--namespace", default="bench")
options = parser.parse_args()

for task, env, discrete in ("pendulum", "Pendulum-v1", False), ("cartpole", "CartPole-v1", True):
    count = options.episodes * (5 if discrete else 1)
    for seed, quality in enumerate((*SKILLS, "mixed")):
        skills = SKILLS.values() if quality == "mixed" else [SKILLS[quality]]
        controllers = [partial(act, skill=skill, discrete=discrete) for skill in skills]
        share = max(1, count // len(controllers))
        first = [1000 * seed + k * share for k in range(len(controllers))]  # each episode starts somewhere else
        played = chain(*(playing.record(env, c, share, k) for c, k in zip(controllers, first, strict=True)))
        id = f"{options.namespace}/{task}-{quality}-v0"
        minari.write(id, played, *environments.spaces(env), env_id=env)
        print(f"{id}: mean return {minari.load(id).returns().mean():.1f}")
