"""The pages of a version and of its run in MLflow, written from what the registry knows."""

from __future__ import annotations

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from mbrl.registry import modelcard, models
from mbrl.registry.aliases import Registry
from mbrl.registry.decisions import Decision
from mbrl.registry.runs import STAGE_TAG

PAGE = 5000  # characters that MLflow's databases hold of a description, and more of a note


def describe(registry: Registry, version: str, decision: Decision) -> None:
    """Write the model card into the version's description, and the dossier's first page into its run's note.

    Raises:
        StoreError: there is no such version, or the store does not answer.
    """
    client, found = registry.client, registry.version(version)
    with models.explained(client, registry.uri, registry.policy):
        model, _, number = found.tags.get("mbrl.simulator", "").partition("/")
        card = client.get_model_version(model, number).tags if number and registry.exists(model, number) else {}
        run = models.run_of(client, found)
        if run is None:
            return  # and with it the reader of its page
        experiment, run_id = run.info.experiment_id, run.info.run_id
        parts = client.search_runs([experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")
        stages = {part.data.tags[STAGE_TAG]: part.info.run_id for part in parts if STAGE_TAG in part.data.tags}
        facts = modelcard.Facts(
            registry.name, version, decision, found.tags, card, run.data.params, (experiment, run_id), stages
        )
        client.update_model_version(registry.policy, version, _page(modelcard.model_card(facts)))
        client.set_tag(run_id, MLFLOW_RUN_NOTE, _page(modelcard.run_page(facts)))


def _page(text: str) -> str:
    return text if len(text) <= PAGE else text[: PAGE - 1] + "…"
