"""The recipes of presets by name, and what callers of `compute_weights` change in them."""

import dataclasses

from urnet_tf.api import door
from urnet_tf.api.known import Known
from urnet_tf.config import PRESETS, Config, from_dict
from urnet_tf.errors import UsageError
from urnet_tf.reweighting import is_literal
from urnet_tf.reweighting.factors import Recipe, weighing
from urnet_tf.stages.reweight import read_recipe
from urnet_tf.text_rules import quote


def named_recipe(name: str) -> Recipe:
    """The recipe that a preset stands for: "best", "sound" or "paper".

    Example:
      >>> named_recipe("sound").beta
      0.8

    Raises:
      UsageError: another name.
    """
    return open_recipe(name)[1]


def open_recipe(recipe: str | Recipe) -> tuple[Config, Recipe, bool]:
    """The configuration of a recipe, the complete recipe, and whether it is the caller's own.

    Raises:
      UsageError: no such recipe, factor or formulas.
    """
    if isinstance(recipe, Recipe):
        factors = [factor.name for factor in weighing()]
        unknown = sorted(set(recipe.factors) - set(factors))
        if unknown:
            raise UsageError(f"Expected factors of {', '.join(factors)}; received {quote(unknown[0])}.")
        is_literal(recipe.formulas)  # raises where there are no such formulas
        switches = {name: {"enabled": True} for name in recipe.factors}
        usual = read_recipe(from_dict({"reweight": {"formulas": recipe.formulas, **switches}}))
        complete = {name: {**usual.factors[name], **own} for name, own in recipe.factors.items()}
        return Config(), dataclasses.replace(recipe, factors=complete), True
    if recipe not in PRESETS:
        raise UsageError(f"Expected a recipe of {', '.join(PRESETS)}, or a Recipe; received {quote(recipe)}.")
    config = from_dict({"preset": recipe})
    return config, read_recipe(config), False


def change_recipe(recipe: Recipe, alpha: float | None, beta: float | None) -> Recipe:
    """The recipe with another strength of class weights, or share of the given label; None keeps what it has.

    Raises:
      UsageError: a number outside of 0..1.
    """
    if alpha is not None:
        usual = read_recipe(from_dict({"reweight": {"class_weight": {"enabled": True}}}))
        settings = recipe.factors.get("class_weight", usual.factors["class_weight"])
        settings = {**settings, "kind": "inverse", "alpha": alpha}
        recipe = dataclasses.replace(recipe, factors={**recipe.factors, "class_weight": settings})
    if beta is not None:
        recipe = dataclasses.replace(recipe, beta=beta)
    door.check_share("beta", recipe.beta)
    if "class_weight" in recipe.factors:
        door.check_share("alpha", recipe.factors["class_weight"]["alpha"])
    return recipe


def leave_out(recipe: Recipe, known: Known, own: bool) -> tuple[Recipe, dict[str, list[str]]]:
    """The recipe without the factors that nothing is known for, and what these need.

    Raises:
      UsageError: the recipe is the caller's own, who wants them.
    """
    lacking = {name: known.lacks(name) for name in recipe.factors if known.lacks(name)}
    if lacking and own:
        name, needs = next(iter(lacking.items()))
        raise UsageError(
            f"Expected {' and '.join(f'`{need}`' for need in needs)} for the factor {name} of your recipe; "
            "received none. Give them, or leave the factor out."
        )
    kept = {name: settings for name, settings in recipe.factors.items() if name not in lacking}
    return dataclasses.replace(recipe, factors=kept), lacking
