"""The members of an ensemble of URNets: where `train` puts each, and what tells it from the others.

The first member is the URNet as it is without others: the same settings, the same files in train/. What
follows lies in train/member1/, train/member2/ ..., and what is distilled from all in train/distilled/.
"""

import dataclasses

from urnet_tf.config import Config, count_members

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
