"""The last row of an episode whose next observation nobody logged: what it is taken for, and what is lost with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mbrl.data.declared import bounds_of
from mbrl.data.episodes import Rows
from mbrl.data.schema import Schema
from mbrl.environments import Episode


def closed(rows: Rows, schema: Schema) -> Rows:
    """An episode whose terminal row acted and was paid (`Schema.final_action`), with a place where that led to.

    The log has none, and no value is ever asked for there: the world ended. But models learn from it what an end looks
    like, so it must not give ends away, as the row's own observation would, which no step keeps exactly. It is the last
    change once more, within physical bounds; categories and exogenous channels stay as they were.
    """
    if not schema.final_action or rows.next_obs is not None or not rows.terminated[-1]:
        return rows
    names, last = rows.columns["obs"], rows.obs[-1]
    still = np.array([name in rows.held or name in rows.given for name in names])
    change = last - rows.obs[-2] if len(rows) > 1 else np.zeros_like(last)
    low, high = np.array([bounds_of(schema, rows, k) for k in range(len(names))]).T
    after = np.where(still, last, (last + change).clip(low, high)).astype(rows.obs.dtype)
    return replace(rows, next_obs=np.concatenate([rows.obs[1:], after[None]]))


@dataclass
class Unpaid:
    """Rewards that went with last rows, beside all that is kept."""

    paid: float = 0.0  # absolute, of the rows that are kept
    lost: float = 0.0
    ends: int = 0  # terminal rows among those that were lost and paid something

    def count(self, rows: Rows, episode: Episode | None, more: bool = False) -> None:
        """An episode's rows, and what became of them; None for nothing. `more`: the last one begins another episode."""
        if episode is not None:
            self.paid += float(np.abs(episode.rewards).sum())
        if more or rows.next_obs is not None or rows.reward is None or not np.isfinite(rows.reward[-1]):
            return
        self.lost += abs(float(rows.reward[-1]))
        self.ends += bool(rows.terminated[-1] and rows.reward[-1])

    def notice(self, schema: Schema) -> str | None:
        """What to tell of it, None where there is nothing.

        Raises:
            ValueError: it is all of the reward, and the schema does not say that it shall go.
        """
        if schema.final_action is not None or not self.lost:
            return None
        wanted = "`final_action: true` in the schema" if schema.terminal else "`terminal` and `final_action: true`"
        if not self.paid:
            raise ValueError(
                "only the last rows of episodes hold a reward, and no next observation, so that an episode ends with"
                f" the observation of its last row, whose action and reward are dropped: say {wanted} if rows that end"
                " the world acted and were paid, name a `next_observation`, or log the reward in the row that earned it"
                " (`final_action: false` drops it all the same)"
            )
        if not self.ends:
            return None
        share = f"{100 * self.lost / (self.lost + self.paid):.3g} % of all reward"
        return (
            f"{self.ends} rows that end the world are the last observations of their episodes, and their actions and"
            f" rewards ({share} goes with last rows) are dropped: say {wanted} if they acted and were paid"
        )
