"""The paper's re-weightings, one file a section: arrays in, arrays out.

`formulas` chooses between the "literal" ones of the paper and those that were "repaired".

Source: not in the paper.
"""

from urnet_tf.errors import UsageError

REPAIRED, LITERAL = "repaired", "literal"


def is_literal(formulas: str) -> bool:
    """Whether "literal" was asked for, and not "repaired".

    Raises:
      UsageError: anything else was asked for.
    """
    if formulas not in (REPAIRED, LITERAL):
        raise UsageError(f"Expected formulas {REPAIRED!r} or {LITERAL!r}; received {formulas!r}.")
    return formulas == LITERAL
