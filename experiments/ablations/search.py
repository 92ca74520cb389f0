"""Settings of the other methods, chosen on the validation list with the first seed.

Each method, with and without class weights for itself, takes the value with the highest mean of
class-balanced top-1 and top-5 on the validation list; the first of the list on a tie. The choice
lies in OUT/search.json, which later calls read.
"""

from collections.abc import Callable, Mapping

from ablations import measure, rows as row_lists
from urnet_tf import schema, store
from urnet_tf.errors import RunError


def search_settings(
    experiment: measure.Experiment, rows: Mapping[str, tuple[str, ...]], report: Callable[[str], None]
) -> dict[str, dict]:
    """Measures every value of every method among the rows and writes what was best.

    Returns:
      Row to `chosen`, a setting, and `tried`, setting to the figure (None where it failed).

    Raises:
      RunError: there is no validation list.
    """
    tried = {name: row_lists.candidates(name, settings) for name, settings in rows.items()}
    tried = {name: texts for name, texts in tried.items() if texts}
    units = {_unit_name(name, text): s for name, texts in tried.items() for text, s in texts.items()}
    measure.run_units(experiment, units, [0], report)
    read, found = measure.read_units(experiment, units, [0]), read_found(experiment)
    for name, texts in tried.items():
        scores = {text: _score(read[_unit_name(name, text)].get(0)) for text in texts}
        usable = [text for text in scores if scores[text] is not None]
        if not usable:
            report(f"{name}: no value could be measured")
            continue
        found[name] = {"chosen": max(usable, key=lambda text: scores[text]), "tried": scores}
        report(f"{name}: {found[name]['chosen']}")
    store.write_json(_path(experiment), found)
    return found


def read_found(experiment: measure.Experiment) -> dict[str, dict]:
    """What an earlier search found; {} when there was none."""
    path = _path(experiment)
    return store.read_json(path) if path.exists() else {}


def with_found(rows: Mapping[str, tuple[str, ...]], found: Mapping[str, dict]) -> dict[str, tuple[str, ...]]:
    """The rows with what was found in place of their defaults."""
    return {
        name: (*settings, found[name]["chosen"]) if name in found else settings
        for name, settings in rows.items()
    }


def format_chosen(rows: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Lines for below a table that tell the settings that were searched, or their defaults."""
    chosen = {}
    for name, settings in rows.items():
        method = row_lists.method_of(name)
        if method is not None:
            chosen[name] = next(s for s in reversed(settings) if s.startswith(f"{method.key}="))
    if not chosen:
        return []
    return ["Settings: " + "; ".join(f"{name} {setting}" for name, setting in chosen.items()) + ".", ""]


def _path(experiment):
    return experiment.out / "search.json"


def _unit_name(name, setting):
    return f"search.{name}.{setting}"


def _score(unit):
    if unit is None or "error" in unit:
        return None
    if schema.VAL not in unit["figures"]:
        raise RunError("There is no validation list to choose settings on; set ingest.val_fraction.")
    figures = unit["figures"][schema.VAL]
    return (figures["balanced_top1"] + figures["balanced_top5"]) / 2
