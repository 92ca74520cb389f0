"""Our own server: TensorFlow Serving's addresses, its limits under abuse, health, metrics."""

import http.client
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from urnet_fixtures.servers import LengthModel, rows, running

for _module in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_module, reason=f"{_module} is not installed: pip install 'urnet_tf[serve]'")


def png(width, height):
    """The header of a PNG file, which is all that is looked at here."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"


@pytest.fixture(scope="module")
def server():
    versions = {3: LengthModel(), 7: LengthModel()}
    with running(
        versions, {"stable": 3}, max_body_mb=0.1, max_images=8, queue_images=8, timeout_s=3
    ) as server:
        yield server


def test_rows_and_columns(server):
    answer = server.predict(rows(b"P short", b"no image", b"P this is long"))
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    first, bad, last = answer.json["predictions"]
    assert first == {
        "classes": [1, 2], "labels": ["short", "long"], "probabilities": [0.9, 0.1], "valid": True
    }  # fmt: skip
    assert bad == {"classes": [-1, -1], "labels": ["", ""], "probabilities": [0.0, 0.0], "valid": False}
    assert last["labels"] == ["long", "short"]
    columns = server.predict({"inputs": ["P short", "P this is long"]}).json["outputs"]
    assert columns["labels"] == [["short", "long"], ["long", "short"]] and columns["valid"] == [True, True]


def test_the_signature_that_is_named_answers(server):
    answer = server.predict(rows(b"P 23") | {"signature_name": "features"})
    assert answer.json == {"predictions": [[4.0, 0.4, 0.04]]}
    answer = server.predict({"signature_name": "tensor", "instances": [[[[5, 5, 5]]]]})
    assert answer.json["predictions"][0]["labels"][0] == "long"
    answer = server.predict(rows(b"P") | {"signature_name": "other"})
    assert (answer.status, answer.json) == (
        400, {"error": 'Serving signature name: "other" not found in signature def'}
    )  # fmt: skip


def test_versions_and_labels(server):
    for path, version in (("", 7), ("/versions/7", 7), ("/versions/3", 3), ("/labels/stable", 3)):
        model = server.model.versions[version]
        before = len(model.calls)
        assert server.predict(rows(b"P"), f"/V1/models/tiny{path}:predict").status == 200
        assert len(model.calls) == before + 1
    for path, status, error in (
        ("/v1/models/tiny/versions/4:predict", 404, "Servable not found for request: Specific(tiny, 4)"),
        ("/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/tiny/labels/canary:predict", 400, "Unrecognized servable version label: canary"),
        ("/v1/models/tiny:classify", 400, "Malformed request: POST /v1/models/tiny:classify"),
        ("/v1/models/tiny/versions/x:predict", 400,
         "Malformed request: POST /v1/models/tiny/versions/x:predict"),
    ):  # fmt: skip
        answer = server.predict(rows(b"P"), path)
        assert (answer.status, answer.json) == (status, {"error": error})


def test_status_and_metadata(server):
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = [{"version": "7", **available}, {"version": "3", **available}]
    assert server.ask("GET", "/v1/models/tiny").json == {"model_version_status": both}
    for path in ("versions/3", "labels/stable"):
        assert server.ask("GET", f"/v1/models/tiny/{path}").json == {"model_version_status": both[1:]}
    metadata = server.ask("GET", "/v1/models/tiny/versions/3/metadata").json
    assert metadata["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    assert metadata["metadata"]["signature_def"]["signature_def"]["tensor"] == {"inputs": ["images"]}
    for path, status, error in (
        ("other", 404, "Could not find any versions of model other"),
        ("tiny/versions/4", 404, "Could not find version 4 of model tiny"),
        ("other/metadata", 404, "Servable not found for request: Latest(other)"),
    ):
        answer = server.ask("GET", f"/v1/models/{path}")
        assert (answer.status, answer.json) == (status, {"error": error})
    assert server.ask("GET", "/v1/models").status == 400


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "The document is empty"),
        (b"\xff\xfe", 400, "Invalid encoding"),
        (b'{"instances": [{"image_bytes": {"b64": "SECRET!"}}]}', 400, "Unable to base64 decode"),
        (rows(*[b"P"] * 9), 413, "at most 8"),
        (rows(b"P" * 100_000), 413, "Request body is larger than 100,000 bytes."),
        (rows(b"P", png(40, 30)), 413, "Image 1 promises 1,200 pixels; at most 1,000 are allowed."),
    ],
)
def test_wrong_and_too_large_requests_get_one_short_sentence(server, body, status, words):
    answer = server.predict(body)
    assert answer.status == status and list(answer.json) == ["error"] and words in answer.json["error"]
    assert len(answer.body) < 300 and b"SECRET" not in answer.body and b"/" not in answer.body
    assert server.predict(rows(b"P", png(10, 100))).status == 200


def test_a_body_without_a_length_is_limited(server):
    def endless():
        while True:
            yield b"x" * 50_000

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", "/v1/models/tiny:predict", endless(), encode_chunked=True)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # it does not listen any more
        status = connection.getresponse().status
    finally:
        connection.close()
    assert status == 413


def test_a_huge_length_is_refused_before_the_body_comes(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n{"
        )
        head = client.recv(1000).decode().lower()
    assert head.startswith("http/1.1 413") and "connection: close" in head


def test_a_body_that_does_not_come_is_given_up(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_compressed_bodies_and_other_methods(server):
    assert server.predict(b"x", headers={"Content-Encoding": "gzip"}).status == 415
    assert server.ask("PUT", "/v1/models/tiny:predict", b"x").status == 400
    assert server.ask("DELETE", "/healthz").json == {"error": "Method not allowed: DELETE /healthz"}
    answer = server.ask("GET", "/docs")
    assert (answer.status, answer.json) == (404, {"error": "No such page: GET /docs"})


def test_a_failing_library_is_a_number_for_the_client_and_a_trace_in_the_log(server, caplog):
    with caplog.at_level(logging.INFO):
        answer = server.predict(rows(b"P fail"))
    assert answer.status == 500 and "/secret" not in answer.json["error"]
    number = re.search("under ([0-9a-f]{8})", answer.json["error"])[1]
    assert number in caplog.text and "the library failed at /secret/path" in caplog.text
    assert server.predict(rows(b"P")).status == 200


def test_the_log_has_a_line_a_request_that_steers_no_terminal(server, caplog):
    def lines():
        return [r.getMessage() for r in caplog.records if r.name == "urnet_tf.serving.request_log"]

    with caplog.at_level(logging.INFO):
        server.ask("GET", "/healthz")  # which is not written down
        server.predict(rows(b"P", b"P"))
        server.ask("GET", "/v1/models/%1b%5b31m%0aFAKE")
        end = time.monotonic() + 20
        while len(lines()) < 2:  # they come after the answers
            assert time.monotonic() < end
            time.sleep(0.01)
    first, second = lines()
    assert re.fullmatch(r'127.0.0.1 "POST /v1/models/tiny:predict" 200 images=2 \d+ bytes \d+ ms', first)
    assert "\x1b" not in second and "\n" not in second and r"\x1b[31m\nFAKE" in second


def test_overload_and_lateness():
    model = LengthModel()
    with running({1: model}, queue_images=2, max_images=2, timeout_s=1) as server:
        model.go.clear()
        with ThreadPoolExecutor(6) as pool:
            held = pool.submit(server.predict, rows(b"P held"))
            while not model.calls:
                time.sleep(0.01)
            waiting = [pool.submit(server.predict, rows(b"P waits")) for _ in range(2)]
            time.sleep(0.3)
            refused = server.predict(rows(b"P"))
            assert refused.status == 503 and refused.json == {"error": "Too many images wait for an answer."}
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            for answer in (f.result() for f in [held, *waiting]):
                assert answer.status == 504 and "Deadline exceeded" in answer.json["error"]
            model.go.set()
            assert server.predict(rows(b"P")).status == 200
        assert model.calls == [("serving_default", 1)] * 2  # those that were late were not computed


def test_requests_in_work_are_answered_when_it_is_stopped():
    model = LengthModel()
    with running({1: model}) as server, ThreadPoolExecutor(2) as pool:
        model.go.clear()
        held = [pool.submit(server.predict, rows(b"P held")) for _ in range(2)]
        end = time.monotonic() + 20
        while not model.calls:
            assert time.monotonic() < end
            time.sleep(0.01)
        server.stop()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            server.predict(rows(b"P new"))
        model.go.set()
        assert [f.result().status for f in held] == [200, 200]


def test_many_clients_get_their_own_answers_amid_hostile_ones(server):
    hostile = [b"{", rows(*[b"x"] * 9), rows(png(99, 99)), b"\0" * 1000, rows(b"P" * 100_000)]

    def client(number):
        wrong = []
        for i in range(12):
            if (number + i) % 4 == 0:
                answer = server.predict(hostile[(number + i) % len(hostile)])
                wrong += [answer] if answer.status not in (400, 413) else []
                continue
            size = 2 + (number * 7 + i) % 20
            answer = server.predict({"signature_name": "features", **rows(b"P" * size)})
            expected = {"predictions": [[float(size), pytest.approx(size / 10), pytest.approx(size / 100)]]}
            wrong += [answer] if answer.status != 503 and answer.json != expected else []
        return wrong

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(client, range(16)), []) == []


def test_health_and_readiness_while_loading():
    go, model = threading.Event(), LengthModel()

    def load(served):
        assert go.wait(20)
        served.load(lambda number: model, (1, 2, 4), b"P photo")

    with running({1: model}, load=load) as server:
        assert server.ask("GET", "/healthz").status == 200
        refused = server.ask("GET", "/readyz")
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert server.predict(rows(b"P")).json == {"error": "Version 1 of tiny is being loaded."}
        (status,) = server.ask("GET", "/v1/models/tiny").json["model_version_status"]
        assert status["state"] == "LOADING"
        go.set()
        end = time.monotonic() + 20
        while server.ask("GET", "/readyz").status != 200:
            assert time.monotonic() < end
        warm = [(name, size) for name in model.signatures for size in (1, 2, 4)]
        assert model.calls == warm  # every signature with every size, before it is ready
        assert server.predict(rows(b"P")).status == 200


def test_a_version_that_cannot_be_opened_is_told():
    def load(served):
        served.load({1: LengthModel()}.__getitem__, (1,), b"P")

    with running([1, 2], load=load) as server:
        end = time.monotonic() + 20
        while True:
            latest, first = server.ask("GET", "/v1/models/tiny").json["model_version_status"]
            if latest["state"] != "LOADING":
                break
            assert time.monotonic() < end
        assert (latest["state"], latest["status"]["error_code"]) == ("END", "UNKNOWN")
        assert first["state"] == "AVAILABLE" and server.ask("GET", "/readyz").status == 503


def test_metrics(server):
    from prometheus_client.parser import text_string_to_metric_families

    def read(path):
        answer = server.ask("GET", path)
        assert answer.headers["content-type"].startswith("text/plain")
        families = text_string_to_metric_families(answer.body.decode())
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}

    before = read("/metrics")
    server.predict(rows(b"P", b"P", b"bad"))
    server.predict(b"{")
    after = read("/monitoring/prometheus/metrics")

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert grown("urnet_requests_total", route="predict", status="200") == 1
    assert grown("urnet_requests_total", route="predict", status="400") == 1
    assert (grown("urnet_images_total", valid="true"), grown("urnet_images_total", valid="false")) == (2, 1)
    assert grown("urnet_batch_images_count") == 1 and grown("urnet_batch_images_sum") == 3
    assert grown("urnet_request_seconds_count", route="predict") == 2
    assert after[("urnet_queued_images",)] == after[("urnet_held_bytes",)] == 0
    assert after[("urnet_ready",)] == 1
