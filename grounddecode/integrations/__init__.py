"""Adapters to other people's tools; each imports its tool only when that tool asks for it."""

from typing import Any


def lmms_eval_manifest() -> Any:
    """What lmms-eval reads at the entry point `lmms_eval.models`: the model `grounddecode`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="grounddecode", simple_class_path=f"{__name__}.lmms_eval.GroundDecode")
