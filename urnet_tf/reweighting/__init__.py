"""The paper's re-weightings, one file a section: arrays in, arrays out.

`fidelity` chooses between the paper's literal formulas and those that were made sound.
"""

from urnet_tf.errors import UsageError

SOUND, PAPER = "sound", "paper"


def is_literal(fidelity: str) -> bool:
    """Whether "paper" was asked for, and not "sound".

    Raises:
      UsageError: anything else was asked for.
    """
    if fidelity not in (SOUND, PAPER):
        raise UsageError(f"Expected fidelity {SOUND!r} or {PAPER!r}; received {fidelity!r}.")
    return fidelity == PAPER
