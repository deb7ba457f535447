"""Decision transformer: imitation that is told how well the log went on, and asked for what went on well."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, full_precision, returns_to_go
from policies.functional import one_hot, sample_categorical
from policies.networks import Bounds, Standardise


class ReturnConditioned(Policy):
    """A causal transformer over (return, observation, action, observation, ... newest observation) -> action.

    The observations and actions are those of a window (`Spec.history`); its output at the newest observation is the
    action: squashed into the bounds for Box, the same with and without rng; logits for Discrete.

    Args:
        spec: of the log; with a history of 1 the sequence is (return, observation).
        width: of an embedding.
        layers: of the transformer.
        heads: of attention; they divide the width.

    Raises:
        ValueError: heads do not divide the width.
    """

    target: Tensor  # the return to ask for, discounted, in units of reward
    return_mean: Tensor  # of the log's returns-to-go
    return_std: Tensor
    mask: Tensor  # [2 K, 2 K] bool: what a token does not see

    def __init__(self, spec: Spec, width: int = 128, layers: int = 3, heads: int = 1) -> None:
        super().__init__(spec)
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"heads is {heads} and width {width}, expected heads that divide the width")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        for name, value in (("target", 0.0), ("return_mean", 0.0), ("return_std", 1.0)):
            self.register_buffer(name, torch.tensor(value))
        tokens = 2 * spec.history
        self.register_buffer("mask", torch.ones(tokens, tokens, dtype=torch.bool).triu(1), persistent=False)
        self.embed_return = nn.Linear(1, width)
        self.embed_obs = nn.Linear(spec.frame_dim, width)
        self.embed_action = nn.Linear(spec.action_dim, width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        final = nn.LayerNorm(width)
        self.transformer = nn.TransformerEncoder(layer, layers, final, enable_nested_tensor=False)
        for weight in self.transformer.parameters():  # its layers are copies of one, with the same weights
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.output = nn.Linear(width, spec.action_dim)

    def tokens(self, obs: Tensor, goal: Tensor) -> Tensor:
        """Embeddings [B, 2 K, W], in the order of time, of returns [B] and windows [B, O] (which run back in time)."""
        frames, spec = self.spec.history * self.spec.frame_dim, self.spec
        known = self.standardise(obs)
        seen = self.embed_obs(known[:, :frames].unflatten(1, (spec.history, spec.frame_dim)).flip(1))
        asked = self.embed_return(((goal - self.return_mean) / self.return_std).unsqueeze(-1)).unsqueeze(1)
        parts = [asked, seen[:, :1]]
        if spec.history > 1:
            taken = known[:, frames:].unflatten(1, (spec.history - 1, spec.action_dim)).flip(1)
            parts.append(torch.stack([self.embed_action(taken), seen[:, 1:]], 2).flatten(1, 2))
        return torch.cat(parts, 1) + self.place

    def forecast(self, obs: Tensor, goal: Tensor) -> Tensor:
        """Actions in [-1, 1] (Box) or logits (Discrete), [B, A], of windows [B, O] where returns [B] are to follow."""
        # said in words, too: whether a mask is causal would be read from the device
        with full_precision(obs):
            tokens = self.tokens(obs, goal)
        last = self.transformer(tokens, mask=self.mask, is_causal=True)[:, -1]
        with full_precision(last):
            found: Tensor = self.output(last.float())
            return found if self.spec.discrete else torch.tanh(found)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        found = self.forecast(obs, self.target.expand(obs.shape[0]))
        if not self.spec.discrete:
            return self.bounds.scale(found)
        return one_hot(found.argmax(-1) if rng is None else sample_categorical(found, rng), self.spec.action_dim)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor | None:
        if not self.spec.discrete:
            return None
        return (F.log_softmax(self.forecast(obs, self.target.expand(obs.shape[0])), -1) * action).sum(-1)


class DecisionTransformer(Learner):
    """Return-conditioned sequence modelling (Chen et al. 2021, "Decision Transformer"): squared error of the action
    (Box, in units of half its range) or cross-entropy (Discrete), given the return that followed it in the log.

    No value is learned, so it does not stitch good parts of bad episodes together, and in a plant with luck a high
    return may be asked for that no action brings about. It reads windows: set `data.history`.

    Deviations from the paper, which undo the need to know at serving what was earned so far, and how much time is left:
    returns are discounted, and an episode that was cut is taken to go on with its mean reward; the sequence begins with
    one return, that of its newest observation; and it is asked for the same target at every step, where the paper
    lowers the target by what was earned. The newest action alone is learned, and places are those within the window,
    where the paper learns all actions and embeds the time in the episode. No normalisation of the embeddings, no
    dropout, no warm-up and no clipping of gradients.

    Args:
        spec: of the log.
        width, layers, heads: of the transformer.
        discount: of the returns, below 1.
        quantile: of the log's returns-to-go, the target of the policy.
        lr, weight_decay: of AdamW.

    Raises:
        ValueError: discount is not within [0, 1), quantile not within [0, 1], or heads do not divide the width.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        width: int = 128,
        layers: int = 3,
        heads: int = 1,
        discount: float = 0.99,
        quantile: float = 0.9,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if not 0 <= discount < 1:
            raise ValueError(f"discount is {discount}, expected from 0 to below 1")
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}, expected from 0 to 1")
        self.discount, self.quantile = discount, quantile
        self.actor = ReturnConditioned(spec, width, layers, heads)
        self.optimizers = {"actor": AdamW(self.actor.parameters(), lr, weight_decay=weight_decay, fused=True)}

    @property
    def policy(self) -> Policy:
        return self.actor

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        """The same rows with returns-to-go in the place of rewards; the target and their moments go into buffers.

        Raises:
            ValueError: no `ends`.
        """
        if ends is None:
            raise ValueError("DecisionTransformer learns from whole episodes: give `ends`, the last row of each")
        returns = returns_to_go(real.reward, real.terminated, ends, self.discount)
        spread = returns.std(correction=0)
        self.actor.return_mean.copy_(returns.mean())
        self.actor.return_std.copy_(torch.where(spread > 0, spread, 1.0))
        self.actor.target.copy_(returns.sort().values[round(self.quantile * (len(returns) - 1))])
        return real._replace(reward=returns)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        found = self.actor.forecast(real.obs, real.reward)
        if self.spec.discrete:
            loss = -(F.log_softmax(found, -1) * real.action).sum(-1).mean()
        else:
            loss = F.mse_loss(found, self.actor.bounds.unscale(real.action))
        descend(self.optimizers["actor"], loss)
        return {"loss": loss.detach()}
