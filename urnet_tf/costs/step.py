"""Memory and time of steps, from the counts of `network_cost` and constants measured on one machine.

Measured by experiments/benchmarks/bench_memory.py on 2 cores with AVX-512, tensorflow 2.20, oneDNN on:
peaks of the resident set over training ResNeXt-26 at 64 px, ResNeXt-50 at 128 and 224 px, ResNeXt-101
32x8d at 224 px and EfficientNet-Lite0, 3 to 96 images a step, 5,000 classes. Nothing was measured on a
GPU: there the same counts of weights and activations hold, and the library's own workspace is a guess.
Speeds are of one thread on that machine: 40 G multiply-adds a second in ResNeXt, 24 in EfficientNet-Lite0.
"""

import dataclasses
from collections.abc import Callable

from urnet_tf.backbone_names import ALL
from urnet_tf.costs.network import HeadCost, NetworkCost

_PROCESS_BYTES = 850 * 10**6  # Python, TensorFlow, the pipeline's graph
_LAYER_BYTES = 9 * 10**6  # a convolution's share of the traced step and of oneDNN's primitives
_GPU_BYTES = 10**9  # a guess: context and workspace of CUDA
_GRADIENT_SHARE = 0.2  # activations' gradients in flight, as a share of what is kept
_LIVE_ACTIVATIONS = 3  # of the largest size at one time in inference: input, output, shortcut
_BATCHES_AHEAD = 4  # prefetched, being filled, being copied
_USED_SHARE = 0.7  # of the memory there is: others need some, and a crash costs more than a slower step
_MARGIN = 1.15  # for the allocator's holes, which grow over the first steps

_MULTIPLY_ADDS = 47e9  # a second and core, of float32 convolutions
_ACTIVATION_BYTES = 7e9  # a second and core, through normalizations and ReLUs
_GPU_MULTIPLY_ADDS = 4e12  # a second; a guess
_IMAGE_SECONDS = 0.0015  # of a core: reading, decoding and resizing one view
_TRAINING_MULTIPLY_ADDS = 3.0  # of a training step, in those of a forward pass
_TRAINING_ACTIVATIONS = 5.0


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """What a fit holds in memory, in bytes."""

    heads: HeadCost
    num_classes: int
    weights: int
    gradients: int
    optimizer: int
    activations_per_image: int
    synchronized_per_image: int  # more, where devices synchronize their batch statistics
    input_per_image: int
    traced: int
    batch_images: int
    parts: int  # that a batch is split into, one after the other

    def images_at_once(self, devices: int = 1) -> int:
        """Images that go through one device together, at most."""
        return -(-self.batch_images // (devices * self.parts))

    def tell_parts(self) -> str:
        """What a plan's note adds where steps are divided."""
        return f"; steps in {self.parts} parts" if self.parts > 1 else ""

    def activations(self, devices: int = 1) -> int:
        """Kept for the backward pass on one device, and the gradients in flight."""
        more = self.synchronized_per_image if devices > 1 else 0
        return (self.activations_per_image + more) * self.images_at_once(devices)

    def device_bytes(self, devices: int = 1) -> int:
        """The memory of one of several GPUs."""
        held = self.weights + self.gradients + self.optimizer + self.activations(devices)
        return int(_MARGIN * held) + _GPU_BYTES

    def host_bytes(self, gpus: int = 0) -> int:
        """The machine's memory: without a GPU all of the training, else input and copies of the weights.

        A checkpoint copies weights and optimizer; building a network holds its weights twice.
        """
        held = _PROCESS_BYTES + self.traced + 2 * self.weights + self.optimizer
        held += _BATCHES_AHEAD * self.batch_images * self.input_per_image
        if not gpus:
            held += self.weights + self.gradients + self.optimizer + self.activations()
        return int(_MARGIN * held)


def training_cost(
    network: NetworkCost | None,
    heads: HeadCost,
    num_classes: int,
    batch_images: int,
    *,
    feature_dim: int,
    image_size_px: int,
    optimizer: str = "sgd",
    ema: bool = False,
    parts: int = 1,
    precision: str = "float32",
    part: str = ALL,
) -> TrainingCost:
    """Counts what one fit holds.

    Args:
      network: that is trained; None = only the heads, on features.
      heads: on its features.
      num_classes: C.
      batch_images: images a step, over all devices.
      feature_dim: D.
      image_size_px: side of the images that come in; of no account without a network.
      optimizer, ema: slots of "sgd" 1, of "adamw" 2, of averaged weights 1 more.
      parts: see `accumulate_steps`.
      precision: as in `runtime.precision`.
      part: of the network that learns, see `models.unfreezing.unfreeze`.
    """
    learning = network.learning(part) if network else None
    trainable = heads.parameters + (learning.trainable if learning else 0)
    parameters = heads.parameters + (network.parameters if network else 0)
    mixed = precision != "float32"
    slots = {"sgd": 1, "adamw": 2}[optimizer] + ema
    activations = 4 * (feature_dim + 6 * num_classes)  # logits, their softmax and gradients, of both branches
    synchronized = 0
    if network is not None and learning is not None:
        activations += int((1 + _GRADIENT_SHARE) * (2 if mixed else 4) * learning.kept_elements)
        if learning.kept_elements < network.kept_elements:  # what is frozen is passed through
            activations += _LIVE_ACTIVATIONS * (2 if mixed else 4) * network.largest_elements
        # Statistics over several devices are computed in float32, whatever the precision.
        synchronized = int((1 + _GRADIENT_SHARE) * 2 * network.normalized_elements) if mixed else 0
    return TrainingCost(
        heads=heads,
        num_classes=num_classes,
        # Mixed precision computes with a copy of half the size, which the backward pass needs.
        weights=(6 if mixed else 4) * parameters,
        gradients=4 * trainable * (2 if parts > 1 else 1),  # the sum, and those of the part in hand
        optimizer=4 * trainable * slots,
        activations_per_image=activations,
        synchronized_per_image=synchronized,
        input_per_image=4 * (image_size_px**2 * 3 if network else feature_dim),
        traced=_LAYER_BYTES * (network.layers if network else 0),
        batch_images=batch_images,
        parts=parts,
    )


def fewest_parts(
    cost_of: Callable[[int], TrainingCost], rows: int, *, gpus: int, memory_bytes: int, gpu_bytes: int | None
) -> int:
    """The fewest equal parts of a step that memory holds; as many as there are rows where none does.

    Args:
      cost_of: parts -> what a fit holds then.
      rows: of a step on one device, images or whole bags.
      gpus: devices that train.
      memory_bytes: of the machine.
      gpu_bytes: of the smallest GPU; None = not known, and then no limit.
    """
    for parts in (count for count in range(1, rows + 1) if rows % count == 0):
        cost = cost_of(parts)
        on_gpus = not gpus or gpu_bytes is None or cost.device_bytes(gpus) <= _USED_SHARE * gpu_bytes
        if on_gpus and cost.host_bytes(gpus) <= _USED_SHARE * memory_bytes:
            return parts
    return rows


def inference_bytes(
    network: NetworkCost, heads: HeadCost, models: int, batch_images: int, image_size_px: int, gpus: int = 0
) -> int:
    """The machine's memory of running `models` networks on batches, one graph for all of them."""
    held = _PROCESS_BYTES + _BATCHES_AHEAD * batch_images * image_size_px**2 * 3 * 4
    weights = 4 * (network.parameters + heads.parameters)
    held += models * (2 * weights + _LAYER_BYTES * network.layers // 3)
    if not gpus:
        held += models * _LIVE_ACTIVATIONS * 4 * network.largest_elements * batch_images
    return int(_MARGIN * held)


def forward_seconds(network: NetworkCost, images: float, cores: int, gpus: int = 0) -> float:
    """Seconds of one pass of a network over images; the cores read images while GPUs compute."""
    return _seconds(network, images, cores, gpus, 1.0, 1.0)


def training_seconds(
    network: NetworkCost, images: float, cores: int, gpus: int = 0, part: str = ALL
) -> float:
    """Seconds of training steps over images; what does not learn is passed through once."""
    learning = network.learning(part)
    by_multiply_adds = learning.multiply_adds / max(1, network.multiply_adds)
    by_activations = learning.kept_elements / max(1, network.kept_elements)
    return _seconds(
        network, images, cores, gpus,
        1.0 + (_TRAINING_MULTIPLY_ADDS - 1.0) * by_multiply_adds,
        1.0 + (_TRAINING_ACTIVATIONS - 1.0) * by_activations,
    )  # fmt: skip


def _seconds(
    network: NetworkCost, images: float, cores: int, gpus: int, multiply_adds: float, activations: float
) -> float:
    reading = images * _IMAGE_SECONDS / cores
    if gpus:
        return max(reading, images * multiply_adds * network.multiply_adds / _GPU_MULTIPLY_ADDS / gpus)
    compute = multiply_adds * network.multiply_adds / _MULTIPLY_ADDS
    compute += activations * 4 * network.kept_elements / _ACTIVATION_BYTES
    return reading + images * compute / cores
