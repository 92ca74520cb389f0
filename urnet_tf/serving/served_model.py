"""The versions of a model that a server answers with, and what it says of them, in TF Serving's words."""

import abc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf.serving.batching import Arrays, fill_rows
from urnet_tf.serving.rest_protocol import STRING, ProtocolError, Signature
from urnet_tf.text_rules import bare

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"  # TF Serving's ModelVersionStatus.State
_SECONDS_TO_LOAD = 5  # after which a client may ask again

log = logging.getLogger(__name__)


class Version(abc.ABC):
    """An opened model; `run` may be called in several threads.

    Attributes:
      signatures: what it can be asked.
      signature_def: the same as JSON of TensorFlow's SignatureDefMap.
      max_pixels: of an encoded image; None = any.
    """

    signatures: Mapping[str, Signature]
    signature_def: Mapping[str, Any]
    max_pixels: int | None

    @abc.abstractmethod
    def run(self, signature: str, inputs: Arrays) -> Mapping[str, np.ndarray]:
        """Arrays of n rows, object arrays of bytes for strings → the same."""


class ServedModel:
    """A name with versions, of which some have labels.

    Args:
      name: in the addresses.
      numbers: of the versions that are served.
      labels: label → version.
    """

    def __init__(self, name: str, numbers: Sequence[int], labels: Mapping[str, int] | None = None):
        self.name, self.numbers, self.version_labels = name, sorted(numbers), dict(labels or {})
        self.versions: dict[int, Version] = {}
        self._failures: dict[int, str] = {}

    @property
    def ready(self) -> bool:
        """Whether all versions are loaded and warm."""
        return len(self.versions) == len(self.numbers)

    def load(self, open_version: Callable[[int], Version], sizes: Sequence[int], photo: bytes) -> None:
        """Opens all versions and lets each signature answer every size of batch once.

        Args:
          open_version: number → the version.
          sizes: rows of a batch; a first call with a new one may set things up anew.
          photo: an encoded image, for inputs of bytes; others get zeros.
        """
        for number in self.numbers:
            log.info("Loading and warming up %s version %d ...", self.name, number)
            try:
                version = open_version(number)
                for name, signature in version.signatures.items():
                    for size in sizes:
                        version.run(name, _build_inputs(signature, size, photo))
            except Exception as error:
                self._failures[number] = str(error)
                raise
            self.versions[number] = version
            log.info("%s version %d is ready", self.name, number)

    def find(self, name: str, number: int | None = None, label: str | None = None) -> tuple[int, Version]:
        """The version that an address means, and its number.

        Raises:
          ProtocolError: there is no such version, or it is not loaded yet.
        """
        if name != self.name:
            wanted = f"Latest({bare(name)})" if number is None else f"Specific({bare(name)}, {number})"
            raise ProtocolError(404, f"Servable not found for request: {wanted}")
        number = self._number_of(label) if label is not None else number
        if number is not None and number not in self.numbers:
            raise ProtocolError(404, f"Servable not found for request: Specific({name}, {number})")
        number = self.numbers[-1] if number is None else number
        if number not in self.versions:
            raise ProtocolError(503, f"Version {number} of {name} is being loaded.", _SECONDS_TO_LOAD)
        return number, self.versions[number]

    def describe_status(self, name: str, number: int | None = None, label: str | None = None) -> dict:
        """JSON of TF Serving's GetModelStatusResponse.

        Raises:
          ProtocolError: there is no such version.
        """
        if name != self.name:
            raise ProtocolError(404, f"Could not find any versions of model {bare(name)}")
        number = self._number_of(label) if label is not None else number
        if number is not None and number not in self.numbers:
            raise ProtocolError(404, f"Could not find version {number} of model {name}")
        numbers = reversed(self.numbers) if number is None else [number]
        return {"model_version_status": [self._status_of(n) for n in numbers]}

    def describe_signatures(self, name: str, number: int | None = None, label: str | None = None) -> dict:
        """JSON of TF Serving's GetModelMetadataResponse.

        Raises:
          ProtocolError: there is no such version, or it is not loaded yet.
        """
        number, version = self.find(name, number, label)
        return {
            "model_spec": {"name": name, "signature_name": "", "version": str(number)},
            "metadata": {"signature_def": {"signature_def": version.signature_def}},
        }

    def _number_of(self, label: str) -> int:
        if label not in self.version_labels:
            raise ProtocolError(400, f"Unrecognized servable version label: {bare(label)}")
        return self.version_labels[label]

    def _status_of(self, number: int) -> dict:
        failed = number in self._failures
        state = AVAILABLE if number in self.versions else END if failed else LOADING
        error = ("UNKNOWN", "It could not be loaded.") if failed else ("OK", "")
        status = dict(zip(("error_code", "error_message"), error, strict=True))
        return {"version": str(number), "state": state, "status": status}


def _build_inputs(signature: Signature, rows: int, photo: bytes) -> Arrays:
    inputs = {}
    for name, spec in signature.inputs.items():
        if spec.dtype == STRING:
            inputs[name] = np.full(rows, photo, object)
        else:
            empty = np.zeros((0, *(size or 1 for size in spec.shape[1:])), spec.dtype)
            inputs[name] = fill_rows(empty, rows)
    return inputs
