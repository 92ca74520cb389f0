"""The members of an ensemble of URNets: where `train` puts each, and what tells it from the others.

The first member is the URNet as it is without others: the same settings, the same files in train/. What
follows lies in train/member1/, train/member2/ ..., and what is distilled from all in train/distilled/.

Source: Table 1, the ensemble of 29 trained models.
Reading: the paper does not say in what its models differ. These differ in their seed, and in the bag size
where `train.member_bag_sizes` asks for it; other networks and image sizes join by `flow.joined_runs`.
"""

import dataclasses
from collections.abc import Callable

from urnet_tf.config import Config, count_members
from urnet_tf.stages.effects import trains
from urnet_tf.stages.settings import open_backbone
from urnet_tf.stages.stage import StageContext

DISTILLED = "distilled"


def distills(config: Config) -> bool:
    """Whether one more URNet is trained on what the members say."""
    return config.train.distill and count_members(config) > 1


def member_directory(number: int) -> str:
    """The directory of a member's files, relative to that of stage `train`: "" for the first, number 0."""
    return f"member{number}" if number else ""


def member_config(config: Config, number: int) -> Config:
    """The configuration of one member: another seed, and the bag size whose turn it is.

    The seed decides the first weights (but for those that come from a checkpoint or the baseline), dropout,
    the bags, mixup and augmentation.
    """
    from urnet_tf.models.seeding import layer_seed

    if number == 0:
        return config
    sizes = config.train.member_bag_sizes or (config.train.bag.size,)
    bag = dataclasses.replace(config.train.bag, size=sizes[(number - 1) % len(sizes)])
    return dataclasses.replace(
        config,
        seed=layer_seed(config.seed, f"member{number}"),
        train=dataclasses.replace(config.train, bag=bag),
    )


def load_members(context: StageContext) -> list[Callable]:
    """The URNets of a run as functions to probabilities, see `multi_view.instance_member`."""
    places = map(member_directory, range(count_members(context.config)))
    return [load_member(context, place) for place in places]


def build_member_predictor(context: StageContext, cached: bool) -> Callable:
    """The graph function of a run's URNets, for `stream_probs`."""
    from urnet_tf.evaluation import multi_view

    backbone = None if cached or context.config.model.mode != "frozen" else open_backbone(context.config)
    return multi_view.build_predictor(load_members(context), backbone)


def load_member(context: StageContext, directory: str) -> Callable:
    """One URNet in train/<directory>, likewise: its instance branch, or the mean of both branches."""
    from urnet_tf.evaluation import multi_view
    from urnet_tf.models import urnet
    from urnet_tf.training.saving import load_model

    place = (directory,) if directory else ()
    if context.config.evaluate.bag_branch and trains(context.config, "train"):
        both = load_model(context.path("train", *place, "urnet.keras"))
        return multi_view.mean_member(urnet.instance_branch(both), urnet.bag_branch(both))
    return multi_view.instance_member(load_model(context.path("train", *place, "instance.keras")))
