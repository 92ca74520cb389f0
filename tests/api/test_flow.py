"""Reading and running from Python; the flow itself is tested by the command line."""

import pytest

import urnet_tf
from urnet_tf.api import flow
from urnet_tf.flow import runner
from urnet_tf.store import Workdir


def test_a_list_is_read_with_its_settings(tmp_path):
    (tmp_path / "list.csv").write_text("path,label,source\na.jpg,x,one\nb.jpg,y,two\nc.jpg,y,one\n")
    crawl = urnet_tf.read_crawl(tmp_path / "list.csv", sources=["one"])
    assert crawl.rows["path"].to_pylist() == ["a.jpg", "c.jpg"]
    assert [entry["name"] for entry in crawl.classes] == ["x", "y"]
    with pytest.raises(urnet_tf.UsageError, match="no such file"):
        urnet_tf.read_crawl(tmp_path / "nothing")


def test_run_runs_the_plan_and_returns_what_stages_found(tmp_path, monkeypatch):
    (tmp_path / "crawl" / "a").mkdir(parents=True)
    config = urnet_tf.load_config(None, [f"ingest.path={tmp_path / 'crawl'}"])
    ran = []

    def run(given, workdir, steps):
        ran.extend(step.stage.name for step in steps)
        assert given is config and workdir.root == tmp_path / "run"

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(Workdir, "marker", lambda self, stage: ran and {"metadata": {"of": stage}} or None)
    assert flow.run(config, tmp_path / "run")["evaluate"] == {"of": "evaluate"}
    assert ran[0] == "ingest" and ran[-1] == "report"
    with pytest.raises(urnet_tf.UsageError, match="Expected a Config.*received 'dict'"):
        urnet_tf.run({}, tmp_path / "run")
