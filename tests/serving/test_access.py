"""Who may ask our own server, and how: keys, TLS, other web pages, and its own page."""

import base64
import datetime
import hashlib
import http.client
import json
import re
import socket
import ssl
import threading
import time

import pytest
from urnet_fixtures.servers import LengthModel, rows, running

for _module in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_module, reason=f"{_module} is not installed: pip install 'urnet_tf[serve]'")


@pytest.fixture(scope="module")
def server():
    with running({1: LengthModel()}) as server:
        yield server


def test_a_key(tmp_path):
    key = tmp_path / "key"
    key.write_text("correct-horse-battery\nsecond line\n")
    with running({1: LengthModel()}, api_key_file=str(key)) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer correct-horse-batteré"},
        ):
            headers = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = server.predict(rows(b"P"), headers=headers)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert server.ask("GET", "/metrics", headers=headers).status == 401
        right = {"Authorization": "Bearer correct-horse-battery"}
        assert server.predict(rows(b"P"), headers=right).status == 200
        assert server.ask("GET", "/metrics", headers=right).status == 200
        assert server.ask("GET", "/healthz").status == server.ask("GET", "/readyz").status == 200
        assert b'data-needs-key="true"' in server.ask("GET", "/").body


def test_the_page_asks_nobody_else(server):
    answer = server.ask("GET", "/")
    text, policy = answer.body.decode(), answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href|url\(|import)\s*[=(]?\s*[\"']?(?:https?:)?//", text)
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert 'data-model="tiny"' in text and not re.search(r"\son\w+=|style=", text)
    assert "{{" not in text


def test_the_page_takes_the_name_as_text():
    from urnet_tf.serving.trial_page import build_page

    text = build_page('<script>"&', needs_key=False).text
    assert '<script>"&' not in text and "&lt;script&gt;&quot;&amp;" in text


def test_other_web_pages_may_ask_only_where_they_are_named():
    origin = {"Origin": "https://shop.example"}
    preflight = origin | {"Access-Control-Request-Method": "POST"}
    with running({1: LengthModel()}, allow_origin="https://shop.example") as server:
        allowed = server.predict(rows(b"P"), headers=origin).headers
        assert allowed["access-control-allow-origin"] == "https://shop.example"
        assert server.ask("OPTIONS", "/v1/models/tiny:predict", headers=preflight).status == 200
    with running({1: LengthModel()}) as server:
        assert "access-control-allow-origin" not in server.predict(rows(b"P"), headers=origin).headers


@pytest.fixture
def certificate(tmp_path):
    """Options with a certificate of localhost."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "c.pem").write_bytes(signed.public_bytes(pem))
    (tmp_path / "k.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return {"tls_certificate": str(tmp_path / "c.pem"), "tls_key": str(tmp_path / "k.pem")}


def test_the_process_speaks_tls_with_the_files_that_are_named(certificate, monkeypatch):
    import uvicorn

    from urnet_tf.serving import model_files, opened_version, own_server

    model, servers = LengthModel(), []

    class Known(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Known)
    monkeypatch.setattr(model_files, "find_model", lambda path: path)
    monkeypatch.setattr(opened_version, "open_version", {"/models/tiny/4": model}.__getitem__)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = certificate | {"batch_sizes": [1, 2], "access_log": False}
    settings = {
        "name": "tiny", "versions": {"4": "/models/tiny/4"}, "labels": {"new": 4}, "host": "127.0.0.1",
        "port": port, "options": options,
    }  # fmt: skip
    status = []
    thread = threading.Thread(target=lambda: status.append(own_server.main(settings)))
    thread.start()
    try:
        trusted = ssl.create_default_context(cafile=certificate["tls_certificate"])
        trusted.check_hostname = False  # the address is a number
        end = time.monotonic() + 20
        while not (servers and servers[0].started):
            assert thread.is_alive() and time.monotonic() < end
            time.sleep(0.01)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusted)
        connection.request("POST", "/v1/models/tiny/labels/new:predict", json.dumps(rows(b"P")))
        answer = connection.getresponse()
        assert answer.status in (200, 503) and answer.getheader("server") is None
        answer.read()
        connection.close()
    finally:
        servers[0].should_exit = True
        thread.join(20)
    assert status == [0] and {size for _, size in model.calls} >= {1, 2}
