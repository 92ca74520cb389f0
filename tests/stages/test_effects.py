"""What of a configuration enters the keys of stages."""

import pytest
from PIL import Image

from urnet_tf.config import load_config
from urnet_tf.flow.plan import stage_keys
from urnet_tf.stages import NAMES
from urnet_tf.stages.effects import INDIFFERENT, effective_settings


@pytest.fixture
def crawl(tmp_path, monkeypatch):
    """A folder of two classes, a list of its images and links to both, in the current directory."""
    for name in ("cat", "dog"):
        (tmp_path / "crawl" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "crawl" / name / "1.png")
    (tmp_path / "list.csv").write_text("path,label\ncrawl/cat/1.png,cat\ncrawl/dog/1.png,dog\n")
    for name in ("crawl", "list.csv"):
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(*overrides):
    return effective_settings(load_config(None, overrides))


@pytest.mark.parametrize("name", ["crawl", "list.csv"])
def test_one_place_is_one_value_however_it_is_written(crawl, name):
    kind = "folder" if name == "crawl" else "list"
    for key in ("ingest.path", "ingest.val_path", "ingest.test_path"):
        ways = [name, f"./{name}", f"{crawl}/{name}", f"elsewhere/../{name}", f'"link to {name}"']
        ways += [f"{name}/", f"{crawl}//{name}//"] if kind == "folder" else []
        found = [settings_of("ingest.path=crawl", f"{key}={way}") for way in ways]
        assert all(settings == found[0] for settings in found), key
        assert found[0][key] == f"{crawl}/{name}"
    assert settings_of(f"ingest.path={name}") == settings_of(f"ingest.path={name}", f"ingest.kind={kind}")


def test_the_root_of_a_list_is_one_place_too(crawl):
    root = "ingest.path=list.csv", "ingest.image_root="
    ways = [settings_of(root[0], root[1] + way) for way in (".", f"{crawl}/", "elsewhere/..")]
    assert ways[0] == ways[1] == ways[2] != settings_of(root[0])
    assert "ingest.image_root" not in settings_of("ingest.path=crawl", root[1] + "elsewhere")


def test_how_a_run_is_carried_out_is_in_no_key(crawl):
    trained = ("ingest.path=crawl", "baseline.head=trained", "train.head=trained", "model.mode=frozen")
    others = {
        "train.fit.checkpoint_s": 7, "baseline.fit.checkpoint_s": 7, "reweight.refit.checkpoint_s": 7,
        "runtime.workers": 1, "runtime.strategy": "none", "runtime.jit_compile": True,
        "runtime.verify_hashes": False, "runtime.executor": "ray", "runtime.address": "10.0.0.1:6379",
    }  # fmt: skip
    overrides = [f"{key}={str(value).lower()}" for key, value in others.items()]
    assert settings_of(*trained) == settings_of(*trained, *overrides)
    assert not settings_of(*trained).keys() & others.keys()
    assert len([key for key in INDIFFERENT if key.startswith("runtime.")]) == 6
    assert "runtime.precision" in settings_of(*trained), "it does change results"


def changed_keys(path, *overrides):
    """The stages whose keys change with a file from outside."""
    config = load_config(None, ["ingest.path=crawl", *overrides])
    before = stage_keys(config)
    path.write_bytes(path.read_bytes() + b" ")
    after = stage_keys(config)
    return [name for name in NAMES if before[name] != after[name]]


@pytest.mark.parametrize(
    ("mode", "first"), [("frozen", "features"), ("finetune", "baseline")]
)  # fmt: skip
def test_a_checkpoint_is_in_the_keys_from_where_it_is_read(crawl, mode, first):
    path = crawl / "x.weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    found = changed_keys(path, f"model.weights={path}", f"model.mode={mode}", "baseline.networks=full")
    assert found == list(NAMES[NAMES.index(first) :])
    assert changed_keys(path, "model.weights=null") == []


def test_text_vectors_are_in_the_keys_from_where_they_are_read(crawl):
    path = crawl / "x.vec"
    path.write_bytes(b"1 2\na 0 0\n")
    setting = f"reweight.confidence.text_vectors={path}"
    found = changed_keys(path, "reweight.confidence.enabled=true", setting)
    assert found == list(NAMES[NAMES.index("reweight") :])
    assert changed_keys(path, "reweight.confidence.enabled=false", setting) == []


def test_the_crawl_is_in_all_keys(crawl):
    assert changed_keys(crawl / "crawl" / "cat" / "1.png") == list(NAMES)


def test_what_is_extracted_for_a_second_round_is_in_the_key(crawl):
    def keys(mode, rounds):
        overrides = (
            "baseline.folds=2",
            f"model.mode={mode}",
            "baseline.networks=full",
            f"reweight.rounds={rounds}",
        )
        return stage_keys(load_config(None, ["ingest.path=crawl", *overrides]))

    assert keys("finetune", 1)["extract"] != keys("finetune", 2)["extract"]
    assert keys("frozen", 1)["extract"] == keys("frozen", 2)["extract"], "features are a stage of their own"
