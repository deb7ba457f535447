"""What the server of `forks.forks` imports: a command, and what its libraries import when they are first used."""

from importlib import import_module

from mbrl.allocator import uncollected

NAMES = (
    "mbrl.stages",
    "mbrl.pipeline",
    "policies",
    "dynamics",
    "dynamics.uncertainty",
    "torch._dynamo",
    "torch.export._trace",
    "sklearn.neural_network",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "git",
)

with uncollected(freeze=True):
    for name in NAMES:
        import_module(name)
