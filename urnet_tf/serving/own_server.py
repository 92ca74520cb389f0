"""The process of our own server, which `urnet serve` starts: `python -m urnet_tf.serving.own_server FILE`.

The file holds `name`, `versions` (number → path), `labels`, `host`, `port` and `options`. Where
URNET_SERVE_PARENT names the process that started it, it ends with that one, however that ends. SIGTERM and
SIGINT let requests in work finish.
"""

import json
import logging
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.serving.options import ServerOptions
from urnet_tf.serving.served_model import ServedModel, Version

PARENT = "URNET_SERVE_PARENT"
_LOOK_S = 1.0  # between looks at whether the parent lives

log = logging.getLogger(__name__)


def main(settings: Mapping[str, Any]) -> int:
    """Serves until a signal; the exit status."""
    import uvicorn

    from urnet_tf.serving.application import create_app

    options = ServerOptions.from_dict(settings["options"])
    options.check_files()
    numbers = {int(number): path for number, path in settings["versions"].items()}
    model = ServedModel(settings["name"], list(numbers), settings["labels"])
    failures: list[BaseException] = []

    def open_version(number: int) -> Version:
        from urnet_tf.serving.model_files import find_model
        from urnet_tf.serving.opened_version import open_version

        return open_version(find_model(numbers[number]))

    def load() -> None:
        from urnet_tf.export.tf_serving import draw_photo

        start = time.monotonic()
        model.load(open_version, options.batch_sizes, draw_photo())
        log.info("Loaded and warmed up in %.1f s", time.monotonic() - start)

    def failed(error: BaseException) -> None:
        if isinstance(error, UsageError):
            log.error("%s", error)
        else:
            log.error("The model cannot be served", exc_info=error)
        failures.append(error)
        server.should_exit = True

    app = create_app(model, options, load=load, failed=failed)
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=settings["host"], port=settings["port"], log_config=None, access_log=False,
            log_level="warning", server_header=False,
            timeout_graceful_shutdown=max(1, round(options.drain_s)),
            ssl_certfile=options.tls_certificate or None, ssl_keyfile=options.tls_key or None,
            h11_max_incomplete_event_size=64 << 10,
        )
    )  # fmt: skip
    server.run()
    return 1 if failures else 0


def end_with_parent(parent: int) -> None:
    """Sends this process SIGTERM when `parent` is no longer the one that it belongs to."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        log.warning("The process that started this server is gone; it ends, too.")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    for library in ("tensorflow", "absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if parent := os.environ.get(PARENT):
        end_with_parent(int(parent))
    try:
        sys.exit(main(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except UsageError as error:
        sys.exit(f"urnet: {error}")
