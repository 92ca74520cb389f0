"""The exported files as the rows of a table."""

from collections.abc import Mapping
from typing import Any

from urnet_tf.export.model_card import FORMAT_NAMES


def describe_export(metadata: Mapping, split_names: Mapping[str, str]) -> dict[str, Any] | None:
    """Rows of the exported files, Keras before them; None where nothing was exported."""
    formats = metadata.get("formats")
    if not formats:
        return None
    keras = {"accuracy": metadata.get("reference"), "kept": True, "refused": None}
    check, machine, rows = metadata.get("check") or {}, metadata.get("machine") or {}, []
    for kind, entry in {"Keras, before export": keras, **formats}.items():
        accuracy, parity = entry.get("accuracy") or {}, entry.get("parity") or {}
        rows.append({
            "name": FORMAT_NAMES.get(kind, kind),
            "file": entry.get("file") if entry["kept"] else None,
            "bytes": entry.get("bytes"),
            "top1": accuracy.get("top1"),
            "top5": accuracy.get("top5"),
            "difference": parity.get("max_difference"),
            "agreement": parity.get("top1_agreement"),
            "latency_ms": entry.get("latency_ms"),
            "kept": entry["kept"],
            "refused": entry.get("refused"),
        })  # fmt: skip
    return {
        "path": metadata.get("path"),
        "rows": rows,
        "images": check.get("images"),
        "labeled": check.get("labeled"),
        "split": split_names.get(check.get("split", ""), check.get("split")),
        "processor": machine.get("processor"),
        "cores": machine.get("cores"),
        "refused": sum(not row["kept"] for row in rows),
    }
