"""`urnet review`: opens a work directory on an address of this machine until it is stopped."""

import os
import pathlib
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence

from urnet_tf import extras
from urnet_tf.crawl import corrections
from urnet_tf.errors import UsageError
from urnet_tf.review.journal import Journal
from urnet_tf.review.places import find_place
from urnet_tf.review.reviewed_run import open_run
from urnet_tf.review.session import Session
from urnet_tf.schema import REVIEW_PORT
from urnet_tf.text_rules import show_path

ADDRESS = "127.0.0.1"  # never another one: who judges from elsewhere forwards the port (ssh -L)
_STOP_S = 3  # for answers that are on their way


def serve(workdir: str | os.PathLike, *, port: int | None = None, at: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM; for the main thread.

    Args:
      workdir: of a run that came as far as `reweight`.
      port: None = 8502, or a free one where that is taken.
      at: what the page opens with, see `places`; None = all queues.

    Raises:
      UsageError: there is no such run, a package is missing, the port is taken, or `at` means nothing.
    """
    extras.require(
        "review", "fastapi", "uvicorn",
        purpose="`urnet review`", otherwise="judge in a table, see docs/judging.md",
    )  # fmt: skip
    import uvicorn

    from urnet_tf.review.application import build_application

    run = open_run(workdir)
    journal = Journal(run)
    session = Session(run, journal)
    place = find_place(session, at) if at is not None else ""
    session.look_alikes.start()
    listener = _listen(port)
    number, token = listener.getsockname()[1], secrets.token_urlsafe(24)
    about = f"{len(run):,} images of {run.num_classes:,} classes"
    if journal.is_writable:
        print(f"{about}; judgements go to {show_path(journal.path)}")
    else:
        print(about)
        print(
            f"urnet: {show_path(journal.path)} cannot be written, so that judgements cannot be kept: this is "
            "for looking only.",
            file=sys.stderr,
        )
    print(f"Open http://{ADDRESS}:{number}/?token={token}{place}")
    print("Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(
        build_application(session, token, number), log_level="warning", access_log=False, lifespan="off",
        server_header=False, timeout_graceful_shutdown=_STOP_S,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int | None) -> socket.socket:
    for number in (REVIEW_PORT, 0) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, number))
            listener.listen(128)  # so that who opens the address at once waits until it is served
        except OSError as error:
            listener.close()
            reason = error.strerror
            continue
        return listener
    raise UsageError(f"Cannot listen on port {port} of this machine: {reason}. Choose another --port.")


def exchange(
    workdir: str | os.PathLike, others: Sequence[str | os.PathLike], out: str | os.PathLike | None
) -> Iterator[str]:
    """Adds judgements of other files to those of a work directory, then writes all as CSV.

    Rows that are there already are not added again.

    Args:
      others: `.csv` or `.parquet`.
      out: the CSV file; None: none is written.

    Yields:
      a sentence about each.

    Raises:
      UsageError: there is no work directory, a file cannot be read, or one cannot be written.
    """
    root = pathlib.Path(workdir)
    if not root.is_dir():
        raise UsageError(f"Expected a work directory at {show_path(root)}; there is none.")
    log = root / corrections.FILE_NAME
    if others:
        known = corrections.read([log]) if log.exists() else corrections.SCHEMA.empty_table()
        there = set(map(_frozen, known.to_pylist()))
        rows = [row for row in corrections.read(others).to_pylist() if _frozen(row) not in there]
        corrections.append(log, rows)
        yield f"{len(rows):,} judgements added; {show_path(log)} has {len(known) + len(rows):,} now."
    if out is not None:
        table = corrections.read([log])
        corrections.write_csv(out, table)
        yield f"{len(table):,} judgements written to {show_path(out)}."


def _frozen(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in corrections.SCHEMA.names)
