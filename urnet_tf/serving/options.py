"""The settings of our own server, as `urnet serve ... -- --max_images=8 --timeout_s=5` gives them."""

import dataclasses
import difflib
import ipaddress
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.export.tf_serving import ALLOWED_BATCH_SIZES
from urnet_tf.text_rules import quote


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """All settings; each has a flag of its name.

    Raises:
      UsageError: a value that makes no sense.
    """

    max_body_mb: float = 32.0  # of a request; a larger one is answered 413
    max_images: int = 1024  # of a request; more are answered 413
    max_pixels: int | None = None  # of an image; more are answered 413; None = what the model allows
    queue_images: int = 1024  # that may wait; a request on top of them is answered 503
    batch_sizes: tuple[int, ...] = ALLOWED_BATCH_SIZES  # images that are computed at once, filled up
    parallel_batches: int = 1  # that are computed at the same time
    timeout_s: float = 30.0  # of a request; then it is answered 504
    drain_s: float = 10.0  # that requests in work get when the server is stopped
    access_log: bool = True  # a line a request on standard error
    api_key_file: str = ""  # whose first line clients send as `Authorization: Bearer ...`; "" = none is asked
    tls_certificate: str = ""  # PEM file; with tls_key the server speaks HTTPS
    tls_key: str = ""
    allow_origin: str = ""  # of web pages that may ask from a browser, like https://shop.example; "" = none

    def __post_init__(self) -> None:
        positive = ("max_body_mb", "max_images", "queue_images", "parallel_batches", "timeout_s", "drain_s")
        for name in positive:
            if not 0 < getattr(self, name) < 1e9:
                raise UsageError(f"Expected --{name} above 0; received {getattr(self, name)}.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"Expected --max_pixels of at least 1; received {self.max_pixels}.")
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise UsageError(f"Expected ascending --batch_sizes, like 1,4,16; received {list(sizes)}.")
        if self.queue_images < self.max_images:
            raise UsageError(
                f"Expected --queue_images of at least --max_images, {self.max_images}, or such a request "
                f"could never be taken; received {self.queue_images}."
            )
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise UsageError("Expected both --tls_certificate and --tls_key, or neither.")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ServerOptions":
        """The inverse of `dataclasses.asdict`, also after JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**values)

    def check_files(self) -> None:
        """Raises UsageError where a file that is named cannot be used on this machine."""
        for name in ("api_key_file", "tls_certificate", "tls_key"):
            path = getattr(self, name)
            if path and not os.access(path, os.R_OK):
                raise UsageError(f"Expected a file that can be read for --{name}; received {path}.")
        self.read_api_key()

    def read_api_key(self) -> str | None:
        """What clients must send; None = nothing.

        Raises:
          UsageError: the file holds none.
        """
        if not self.api_key_file:
            return None
        lines = pathlib.Path(self.api_key_file).read_text(encoding="utf-8", errors="replace").splitlines()
        key = lines[0].strip() if lines else ""
        if len(key) < 16 or not key.isascii() or not key.isprintable():
            raise UsageError(
                f"Expected a key of at least 16 ASCII signs in the first line of {self.api_key_file}; make "
                "one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        return key


def parse_options(arguments: Sequence[str]) -> ServerOptions:
    """Options of words like `--timeout_s=5`.

    Raises:
      UsageError: an unknown name, or a value that it cannot have.
    """
    fields = {field.name: field for field in dataclasses.fields(ServerOptions)}
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in fields:
            nearest = difflib.get_close_matches(name, fields, 1)
            hint = f" Did you mean --{nearest[0]}?" if nearest else f" There are: {', '.join(fields)}."
            raise UsageError(
                f"Expected an option of the server, --name=value; received {quote(argument)}.{hint}"
            )
        if not equals:
            raise UsageError(f"Expected --{name}=VALUE; received {quote(argument)}.")
        try:
            given[name] = _parse_value(fields[name].type, text)
        except ValueError:
            raise UsageError(
                f"Expected a value like {_shown(fields[name].default)} for --{name}; received {quote(text)}."
            ) from None
    return ServerOptions(**given)


def exposure_warning(host: str, options: ServerOptions) -> str:
    """What to know about an address that others can reach; "" where none can."""
    if is_loopback(host):
        return ""
    missing = [
        words
        for words, given in (("any key", options.api_key_file), ("encryption", options.tls_key))
        if not given
    ]
    lacking = f", without {' or '.join(missing)}" if missing else ""
    return f"everyone who reaches {host} can use this server{lacking}."


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parse_value(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if isinstance(kind, types.UnionType):
        return None if text.lower() in ("none", "null", "") else int(text)
    if kind in (int, float, str):
        return kind(text)
    return tuple(int(part) for part in text.split(","))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
