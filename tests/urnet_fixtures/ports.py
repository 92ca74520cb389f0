"""Ports for servers of tests."""

import contextlib
import random
import socket


def free_port():
    """A port that is free, as the one before it is; from where systems take none for outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as listeners:
            for one in (port - 1, port):
                listeners.enter_context(socket.create_server(("127.0.0.1", one)))
            return port
