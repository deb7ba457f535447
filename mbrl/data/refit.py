"""A quick, flexible regression, predicted out of fold: what one part of a log says of another.

Ridge on standardised features, on their squares and on Nystroem features of an RBF kernel, in closed form, so that a
log of any size is answered in seconds (Rahimi and Recht 2007; Williams and Seeger 2001). Or a network of two layers,
which takes ten times as long and learns what the kernel is too coarse for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from mbrl.data.findings import Flags, Floats

LANDMARKS = 300  # of the kernel
FIT_ROWS = 4_000  # rows a fold is fitted on, at most
CLIP = 5.0  # standard deviations: one outlier does not decide the fit
FOLDS = 2
HIDDEN, EPOCHS = (128, 128), 150  # of the network


def out_of_fold(
    x: Floats, y: Floats, group: NDArray[np.int64], seed: int, trusted: Flags | None = None, network: bool = False
) -> Floats:
    """Predictions [n, k] of y [n, k] from x [n, d], each from a fit on the groups of the other fold.

    Groups keep what belongs together (an episode) on one side; with a single group, its blocks in time take their part.
    Every row is predicted; with `trusted` [n], only those rows are fitted. `network`: by that one.
    """
    if len(np.unique(group)) < FOLDS:
        group = np.arange(len(x)) * 2 * FOLDS // len(x)
    rng = np.random.default_rng(seed)
    fold = rng.permutation(int(group.max()) + 1)[group] % FOLDS
    predicted = np.empty_like(y)
    for side in range(FOLDS):
        other = np.flatnonzero((fold != side) if trusted is None else (fold != side) & trusted)
        if len(other) > FIT_ROWS:
            other = np.sort(rng.choice(other, FIT_ROWS, replace=False))
        if len(other) < 3 or not (fold == side).any():
            predicted[fold == side] = y.mean(0)
            continue
        centre, scale = y[other].mean(0), np.where(y[other].std(0) > 0, y[other].std(0), 1.0)
        model = _Network(seed) if network else _kernel(min(LANDMARKS, len(other) // 2), x.shape[1], seed)
        model.fit(x[other], (y[other] - centre) / scale)
        predicted[fold == side] = np.asarray(model.predict(x[fold == side])).reshape(-1, y.shape[1]) * scale + centre
    return predicted


def explained(y: Floats, predicted: Floats) -> Floats:
    """The share of each column's variance in y that `predicted` explains [k]; 0 at least, 1 where y is constant."""
    spread = y.var(0)
    left = ((y - predicted) ** 2).mean(0)
    return np.clip(1 - left / np.where(spread > 0, spread, 1.0), 0, 1)


def _kernel(landmarks: int, width: int, seed: int) -> Pipeline:
    kernel = Nystroem(gamma=0.25 / width, n_components=landmarks, random_state=seed)
    return make_pipeline(
        StandardScaler(),
        FunctionTransformer(_clip),
        make_union(FunctionTransformer(), FunctionTransformer(np.square), kernel),
        RidgeCV(alphas=(1e-4, 1e-2, 1.0)),
    )


class _Network:
    """As many passes over the rows as it takes; scikit-learn's own `fit` warns at the end of them."""

    def __init__(self, seed: int) -> None:
        self.scaler = make_pipeline(StandardScaler(), FunctionTransformer(_clip))
        self.network = MLPRegressor(hidden_layer_sizes=HIDDEN, alpha=1e-5, random_state=seed)

    def fit(self, x: Floats, y: Floats) -> None:
        scaled, y = self.scaler.fit_transform(x).astype(np.float32), y.astype(np.float32)
        with threadpool_limits(1, "blas"):  # products so small that threads would wait for each other
            for _ in range(EPOCHS):
                self.network.partial_fit(scaled, y)

    def predict(self, x: Floats) -> Floats:
        return np.asarray(self.network.predict(self.scaler.transform(x).astype(np.float32)), np.float64)


def _clip(x: Floats) -> Floats:
    return np.clip(x, -CLIP, CLIP)
