"""The flow: thin stages that meet on disk. `STAGES` is their order."""

import importlib

NAMES = (
    "ingest",
    "pack",
    "features",
    "baseline",
    "extract",
    "reweight",
    "train",
    "evaluate",
    "export",
    "report",
)

STAGES = tuple(importlib.import_module(f"{__name__}.{name}").STAGE for name in NAMES)
