"""Train a policy of Stable-Baselines3 in a registered simulator, with neither the log nor the plant at hand.

mbrl demo                                       (registers pendulum-simulator)
pip install stable-baselines3
python examples/04_train_with_stable_baselines3.py --simulator models:/pendulum-simulator@champion --env Pendulum-v1
"""

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl.simulator.wrappers import UncertaintyPenalty

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--simulator", default="models:/pendulum-simulator@champion", help="a model URI or a file")
parser.add_argument("--penalty", type=float, default=0.5, help="what uncertainty 1 costs, in the log's reward spreads")
parser.add_argument("--horizon", type=int, default=50, help="steps after which a rehearsal is cut: errors add up")
parser.add_argument("--steps", type=int, default=6000)
parser.add_argument("--episodes", type=int, default=10, help="to measure the policy on")
parser.add_argument("--env", help="the true environment, for a measurement at the end")
options = parser.parse_args()

cut = gym.make("mbrl:mbrl/Simulator-v0", simulator=options.simulator, horizon=options.horizon)
rehearsal = Monitor(UncertaintyPenalty(cut, options.penalty))
sac = SAC("MlpPolicy", rehearsal, learning_rate=1e-3, seed=0, device="cpu")
sac.learn(options.steps)

longest = cut.unwrapped.simulator.spec.max_episode_steps  # of the log's episodes
env = gym.make("mbrl:mbrl/Simulator-v0", simulator=options.simulator, horizon=longest)
obs, _ = env.reset(seed=1)
doubts, ended = [], False
while not ended:
    obs, _, terminated, truncated, info = env.step(sac.predict(obs, deterministic=True)[0])
    doubts.append(info["uncertainty"])
    ended = terminated or truncated
print(f"mean uncertainty along one episode of {len(doubts)} steps: {np.mean(doubts):.2f}")

places = {"the simulator": env} | ({options.env: gym.make(options.env)} if options.env else {})
for name, place in places.items():
    place.reset(seed=1000)
    mean, spread = evaluate_policy(sac, Monitor(place), options.episodes)
    print(f"mean return of {options.episodes} episodes in {name}: {mean:.1f} (standard deviation {spread:.1f})")
