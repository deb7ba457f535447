"""Write a log as plants have them, to practise on: units, pauses, irregular time stamps, weather and a category.

python examples/make_plant_log.py plant.csv && cat plant.yaml

A tank is heated and fed by two operators; the pump runs in one of two modes, of which `eco` feeds half as much. It
stands outside: `ambient` is the weather. The historian samples every second or so, and stops now and then.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

SCHEMA = """\
observation: [temperature, level, pump, supply]
exogenous: [ambient]        # seen, replayed in imagined rollouts, never predicted
action: [heater, valve]
reward: profit
time: timestamp
period: 1.0                 # seconds
max_gap: 10.0               # a longer pause ends the episode
resample: linear            # or last
categorical: [pump]
units: {temperature: degC, level: m, ambient: degC, supply: V, heater: kW, valve: "%"}
bounds: {temperature: [0, 120], level: [0, 3]}
action_low: [0, 0]
action_high: [10, 100]
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file", type=Path, help="the CSV to write; the schema goes beside it, with the suffix .yaml")
parser.add_argument("--episodes", type=int, default=40)
parser.add_argument("--steps", type=int, default=120, help="samples between two pauses, about")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

rng = np.random.default_rng(options.seed)
rows, clock = [], 0.0
for episode in range(options.episodes):
    temperature, level, eco = rng.uniform(40, 70), rng.uniform(0.8, 1.6), bool(rng.random() < 0.5)
    season, gust = rng.uniform(-10, 25), rng.uniform(0, 2 * np.pi)  # of the weather, degC and phase
    gain, noise = ((0.25, 1.0), (0.6, 2.0))[episode % 2]  # of the operator on shift
    for _ in range(int(options.steps * rng.uniform(0.7, 1.3))):
        heater = np.clip(5 + gain * (60 - temperature) + noise * rng.normal(), 0, 10)
        valve = np.clip(50 + 100 * gain * (1.2 - level) + 10 * noise * rng.normal(), 0, 100)
        profit = 5 - 0.02 * (temperature - 60) ** 2 - 4 * (level - 1.2) ** 2 - 0.1 * heater
        stamp = (pd.Timestamp("2024-05-01") + pd.Timedelta(seconds=clock)).isoformat(timespec="milliseconds")
        ambient = season + 6 * np.sin(gust + clock / 20)
        rows.append((stamp, temperature, level, "eco" if eco else "full", 230.0, ambient, heater, valve, profit))
        step = rng.uniform(0.7, 1.4)  # seconds
        feed = valve / 100 * (0.5 if eco else 1.0)
        level += step * 0.05 * (feed - 0.3 * np.sqrt(level)) + 0.002 * rng.normal()
        temperature += step * (0.25 * heater - 0.03 * (temperature - ambient) - 0.3 * feed) + 0.05 * rng.normal()
        clock += step
    clock += rng.uniform(60, 600)  # the historian pauses

names = ["timestamp", "temperature", "level", "pump", "supply", "ambient", "heater", "valve", "profit"]
pd.DataFrame(rows, columns=names).round(4).to_csv(options.file, index=False)
options.file.with_suffix(".yaml").write_text(SCHEMA)
