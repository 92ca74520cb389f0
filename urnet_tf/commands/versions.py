"""`urnet promote` and `urnet rollback`: which versions of a model servers find, told to a person."""

from urnet_tf.errors import UsageError
from urnet_tf.export import promotion
from urnet_tf.store import Workdir


def promote(workdir: str, out: str, *, pin: bool, label: str | None, dry_run: bool) -> None:
    """Copies a run's export to the directory of promoted models.

    Raises:
      UsageError: there is no export, or it cannot be copied there.
    """
    run = Workdir(workdir)
    marker = run.marker("export")
    if marker is None:
        raise UsageError(f"Expected an export in {run.root}; found none. Run `urnet run` first.")
    if skipped := marker["metadata"].get("skipped"):
        raise UsageError(f"Expected an export in {run.root}; there is none. {skipped}")
    version = run.checked("export", *marker["metadata"]["path"].split("/"))
    change = promotion.promote(version, out, pin=pin, label=label, dry_run=dry_run)
    _tell("Promoted", "Would promote", change, dry_run)


def roll_back(model: str | None, *, dry_run: bool) -> None:
    """Lets servers go back to the version before.

    Raises:
      UsageError: there is none.
    """
    if model is None:
        raise UsageError("Expected --model saved_models/NAME, a promoted model.")
    change = promotion.roll_back(model, dry_run=dry_run)
    _tell("Rolled back to", "Would roll back to", change, dry_run)


def _tell(done: str, planned: str, change: promotion.Change, dry_run: bool) -> None:
    print(f"{planned if dry_run else done}: {change.version}")
    for remark in change.remarks:
        print(f"  {remark}")
