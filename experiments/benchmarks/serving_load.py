"""The load of bench_serving.py: many clients at a time, hostile requests among theirs, every answer checked.

A server is a process of `urnet_tf.serving.own_server` on one file. Clients are threads of this process with
one connection each; on the same machine they take a part of its cores. Nine of ten requests hold one JPEG
file, whose answer must be that of the first time; the tenth is hostile, and must get the status that is
promised. 503 is promised to any of them.
"""

import base64
import collections
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np

NAME = "bench"
PATH = f"/v1/models/{NAME}:predict"
HOSTILE_EVERY = 10
TOLERANCE = 1e-3  # of probabilities: other sizes of batches sum in another order


def build_body(*images):
    """A request for encoded images."""
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]
    return json.dumps({"instances": instances}).encode()


def _png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def hostile_requests(photo):
    """Name → (body, status that is promised)."""
    return {
        "no JSON": (b'{"instances": [', 400),
        "deep": (b"[" * 50_000, 413),
        "another key": (b'{"instance": []}', 400),
        "no base64": (b'{"instances": [{"image_bytes": {"b64": "!"}}]}', 400),
        "another signature": (json.dumps({"signature_name": "x", "instances": ["x"]}).encode(), 400),
        "too many": (build_body(*[b""] * 2000), 413),
        "too large": (b" " * 33_000_001, 413),
        "too many pixels": (build_body(_png_header(20_000, 20_000)), 413),
        "cut off": (build_body(photo[: len(photo) // 2]), 200),
        "no image": (build_body(b"no image"), 200),
    }


@contextlib.contextmanager
def running_server(file, folder, threads, program=("-m", "urnet_tf.serving.own_server")):
    """Port and process of a server on a model's file or directory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "name": NAME, "versions": {"1": os.fspath(file)}, "labels": {}, "host": "127.0.0.1", "port": port,
        "options": {"access_log": False},
    }  # fmt: skip
    path = pathlib.Path(folder) / "server.json"
    path.write_text(json.dumps(settings))
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.fspath(root), "TF_NUM_INTRAOP_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, *program, path], env=environment, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    lines = collections.deque(maxlen=20)
    threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
    try:
        start = time.monotonic()
        while _status(port) != 200:
            if process.poll() is not None or time.monotonic() - start > 600:
                raise RuntimeError(f"the server did not start: {' '.join(lines)}")
            time.sleep(0.2)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _status(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return None


class Client:
    """Sends requests over one connection and remembers what came of them."""

    def __init__(self, port, photos, expected, hostile):
        self._port, self._photos, self._expected = port, photos, expected
        self._hostile = list(hostile.items())
        self._connection = None
        self.seconds, self.counts, self.wrong = [], collections.Counter(), []

    def work(self, numbers, end):
        """Sends requests of these numbers until a time."""
        for number in numbers:
            if time.perf_counter() > end:
                return
            if number % HOSTILE_EVERY == HOSTILE_EVERY - 1:
                self._attack(*self._hostile[number // HOSTILE_EVERY % len(self._hostile)])
                continue
            photo = number % len(self._photos)
            start = time.perf_counter()
            status, body = self._send(self._photos[photo])
            self.counts[status] += 1
            if status == 200:
                self.seconds.append(time.perf_counter() - start)
                if not same_answer(body, self._expected[photo]):
                    self.wrong.append(f"image {photo}: {body[:200]}")
            elif status != 503:
                self.wrong.append(f"image {photo}: {status} {body[:200]}")

    def _attack(self, name, request):
        body, promised = request
        status, _ = self._send(body)
        self.counts["hostile"] += 1
        # A server may close a connection before all of a body that it refuses has come.
        if status not in (promised, 503) and not (status is None and promised == 413):
            self.wrong.append(f"{name}: {status} where {promised} is promised")

    def _send(self, body):
        for fresh in (False, True):
            if self._connection is None:
                self._connection, fresh = (
                    http.client.HTTPConnection("127.0.0.1", self._port, timeout=120),
                    True,
                )
            try:
                self._connection.request("POST", PATH, body, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                answer = response.status, response.read()
                if response.will_close:
                    self._drop()
                return answer
            except (OSError, http.client.HTTPException):
                self._drop()
                if fresh:  # an idle connection may have been closed meanwhile; a new one may not
                    return None, b""
        return None, b""

    def _drop(self):
        self._connection.close()
        self._connection = None


def same_answer(body, expected):
    """Whether the answer for an image is the expected one, up to rounding and ties."""
    try:
        (found,) = json.loads(body)["predictions"]
    except (ValueError, KeyError):
        return False
    close = np.allclose(found["probabilities"], expected["probabilities"], atol=TOLERANCE)
    return close and found["valid"] == expected["valid"] and found["classes"][0] == expected["classes"][0]


def measure(port, photos, clients, requests, limit_s, process=None):
    """p50 and p99 in ms, images/s, statuses and faults of `requests` requests of so many clients.

    With the server's process also its CPU time for an image, which other processes of a machine change least.
    """
    bodies = [build_body(photo) for photo in photos]
    first = Client(port, bodies, [], {})
    expected = [json.loads(first._send(body)[1])["predictions"][0] for body in bodies]
    hostile = hostile_requests(photos[0])
    workers = [Client(port, bodies, expected, hostile) for _ in range(clients)]
    start, used = time.perf_counter(), cpu_seconds(process)
    threads = [
        threading.Thread(target=worker.work, args=(range(i, requests, clients), start + limit_s))
        for i, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, used = time.perf_counter() - start, cpu_seconds(process) - used
    seconds = [s for worker in workers for s in worker.seconds]
    p50, p99 = 1e3 * np.percentile(seconds, [50, 99]) if seconds else (float("nan"), float("nan"))
    counts = sum((worker.counts for worker in workers), collections.Counter())
    return {
        "clients": clients,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "images_per_s": len(seconds) / elapsed,
        "cpu_ms": 1e3 * used / max(1, len(seconds)),
        "answered": counts[200],
        "refused": counts[503],
        "hostile": counts["hostile"],
        "wrong": [fault for worker in workers for fault in worker.wrong],
    }


def cpu_seconds(process):
    """That a process has used so far; 0 where Linux does not tell."""
    try:
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, AttributeError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(process):
    """Of a process; None where Linux does not tell."""
    try:
        lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def format_load(name, results):
    """Markdown: a line for each server and number of clients, then what went wrong."""
    lines = [
        f"\n### {name}: clients at a time\n",
        "| server | clients | p50 ms | p99 ms | images/s | CPU ms | answered | 503 | hostile | wrong | MB |",
        "|---|" + "---:|" * 10,
    ]
    faults = []
    for server, (rows, peak) in results.items():
        for row in rows:
            cells = [server, row["clients"], f"{row['p50_ms']:.0f}", f"{row['p99_ms']:.0f}"]
            cells += [f"{row['images_per_s']:.1f}", f"{row['cpu_ms']:.0f}"]
            cells += [row["answered"], row["refused"], row["hostile"], len(row["wrong"]), f"{peak:.0f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
            faults += [f"{server}: {fault}" for fault in row["wrong"][:3]]
    return "\n".join([*lines, *([""] if faults else []), *faults])
