"""`minari://NAMESPACE/NAME-vN` for MLflow, which imports this file with itself through an entry point.

So it imports next to nothing, and whatever uses it imports MLflow first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from mlflow.data.dataset_source import DatasetSource

if TYPE_CHECKING:
    from mbrl.data.dataset import TransitionDataset

PREFIX = "minari://"


class MinariSource(DatasetSource):
    """The MLflow source of a Minari data set, `minari://NAMESPACE/NAME-vN`."""

    def __init__(self, dataset_id: str) -> None:
        self.dataset_id = dataset_id

    @property
    def uri(self) -> str:
        """`minari://NAMESPACE/NAME-vN`."""
        return f"{PREFIX}{self.dataset_id}"

    @staticmethod
    def _get_source_type() -> str:
        return "minari"

    def load(self) -> TransitionDataset:
        """The data set itself, from this machine; raises as `mbrl.data.minari.load` does."""
        from mbrl.data import minari

        return minari.load(self.dataset_id)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith(PREFIX)

    @classmethod
    def _resolve(cls, raw_source: Any) -> Self:
        return cls(str(raw_source).removeprefix(PREFIX))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_dict`."""
        return {"uri": self.uri}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls._resolve(source_dict["uri"])
