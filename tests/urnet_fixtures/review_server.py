"""A review that is served in this process, and what a browser would send to it."""

import contextlib
import http.client
import json
import socket
import threading
import time

TOKEN = "a-token-of-this-test"


class Browser:
    """Sends what a browser would, unless told otherwise."""

    def __init__(self, port, cookie=f"{TOKEN}"):
        self.port, self.host = port, f"127.0.0.1:{port}"
        self.cookie = f"urnet_review_{port}={cookie}"

    def send(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": self.host, "Cookie": self.cookie}
        if body is not None:
            sent |= {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {k: v for k, v in sent.items() if v is not None})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def get(self, path, status=200, **headers):
        answer, content = self.send("GET", path, **headers)
        assert answer.status == status, content
        return json.loads(content) if "json" in (answer.getheader("content-type") or "") else content

    def post(self, path, body, status=200, **headers):
        answer, content = self.send("POST", path, body, **headers)
        assert answer.status == status, content
        return json.loads(content)

    def judge(self, items, truth, queue="doubtful", status=200, **changes):
        body = {
            "results": self.get("/api/start")["results"], "truth": truth, "queue": queue,
            "ids": [i for item in items for i in item["ids"]],
            "revisions": [r for item in items for r in item["revisions"]],
        }  # fmt: skip
        return self.post("/api/judge", body | changes, status)


@contextlib.contextmanager
def served(root):
    """A server of a work directory in a thread of this process."""
    import uvicorn

    from urnet_tf.review.application import build_application
    from urnet_tf.review.journal import Journal
    from urnet_tf.review.reviewed_run import open_run
    from urnet_tf.review.session import Session

    run = open_run(root)
    session = Session(run, Journal(run, who="tester"))
    session.look_alikes.start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(build_application(session, TOKEN, port), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Browser(port), session
        finally:
            server.should_exit = True
            thread.join()
