"""Damaged lists, WebVision trees, configurations and checkpoints: a result, or one sentence.

The readers run in this process, as the plan of a run and the stage `ingest` call them.
"""

import collections
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures import checkpoints as writers

from urnet_tf import config as config_lib
from urnet_tf.checkpoints import reader as checkpoint_reader
from urnet_tf.images import probe
from urnet_tf.schema import SPLITS, STATUS
from urnet_tf.stages import ingest
from urnet_tf.stages.stage import PlanContext

CSV = (
    "path,label,source,rank,query,title,description,tags,split\r\n"
    'cat/1.jpg,cat,google,1,"a cat, small",Käfer,"two\nlines",x y,train\r\n'
    "cat/2.jpg,cat,flickr,2,cats,,,,train\r\ndog/1.jpg,dog,google,1,dog,t,d,,\r\n"
    "dog/2.jpg,dog,google,,dog,t,d,,val\r\ntest/1.jpg,,,,,,,,test\r\n"
)
TREE = {
    "info/synsets.txt": "n01 tench, Tinca tinca\nn02 great white shark, man-eater\nn03 hen\n",
    "info/queries_google.txt": "1 tench\n2 white+shark\n3 café hen\n4 carcharodon\n",
    "info/queries_flickr.txt": "1 tench\n2 white shark\n3 hens\n",
    "info/queries_synsets_map.txt": "1 1\n2 2\n3 3\n4 2\n",
    "info/train_filelist_google.txt": "google/q0001/aa.jpg 0\ngoogle/q0001/bb.jpg 0\ngoogle/q0002/ee.jpg 1\n"
    "google/q0003/my hen.jpg 2\n",
    "info/train_meta_list_google.txt": "google/q0001.json 2\ngoogle/q0001.json 1\ngoogle/q0002.json 1\n"
    "google/q0003.json 1\n",
    "info/train_filelist_flickr.txt": "flickr/q0001/ff.jpg 0\nflickr/q0003/gg.jpg 2\n",
    "info/train_meta_list_flickr.txt": "flickr/q0001.json 1\nflickr/q0003.json 1\n",
    "info/val_filelist.txt": "val1.jpg 2\nval2.jpg 0\n",
    "info/test_filelist.txt": "test1.jpg\ntest2.jpg\n",
    "google/q0001.json": json.dumps(
        [{"id": "bb", "title": "A", "description": None, "rank": "17"}, {"id": "aa", "tags": ["a"]}]
    ),
    "google/q0002.json": json.dumps([{"id": "ee", "title": "x", "description": "y"}]),
    "flickr/q0001.json": json.dumps([{"id": "ff", "tags": "plain", "title": {"deep": [1]}}]),
    "val_images_256/val1.jpg": "",
    "test_images_256/test1.jpg": "",
}  # fmt: skip
YAML = (
    "preset: sound\nseed: 3\ningest:\n  path: crawl\n  max_rank: {flickr: 15}\n  sources: [google, flickr]\n"
    "model: {mode: finetune, backbone: resnext, resnext_depth: 50}\ntrain:\n  fit: &fit\n    epochs: 3.5\n"
    "    loss: {kind: gce}\nbaseline:\n  fit: *fit\n  folds: 4\nexport:\n  name: urnet\n  formats: [keras]\n"
    "evaluate:\n  scales: [1.0, 1.2]\n"
)
OVERRIDES = (
    "train.fit.epochs=3", "export.name=urnet", "ingest.sources=[google]", "ingest.max_rank={flickr: 3}",
    "evaluate.scales=[1.0]", "reweight.soft_label.beta=0.9", "model.weights=imagenet", "seed=1",
)  # fmt: skip


def read_crawl(path):
    """Everything that a run does with the listing before it opens an image."""
    config = config_lib.from_dict({"ingest": {"path": str(path)}})
    ingest.inputs(config)
    crawl = ingest.read_crawl(config)
    rows = crawl.rows.to_pydict()
    assert set(rows["split"]) <= set(SPLITS)
    assert all(-1 <= label < len(crawl.classes) for label in rows["label"])
    assert all(rank >= 0 for rank in rows["rank"])
    assert set(crawl.rejected.to_pydict()["status"]) <= set(STATUS)
    for name in ("path", "query", "title", "description", "tags", "source"):
        assert all(text.encode() is not None for text in rows[name]), name
    return "rejected rows" if len(crawl.rejected) else "read"


def test_damaged_text_lists(fuzzing, tmp_path):
    goods = [CSV, CSV.replace(",", ";"), CSV.replace(",", "\t"), "path,label\na/1.jpg,0\na/2.jpg,1\n"]

    def make(rng, directory):
        good = goods[rng.integers(len(goods))]
        path = directory / ("list.tsv" if "\t" in good else "list.csv")
        path.write_bytes(good.encode())
        classes = directory / "classes.txt"
        if rng.random() < 0.5:
            classes.write_text("cat\ndog\n")
        others = [text.encode() for text in goods]
        victim = classes if classes.exists() and rng.random() < 0.4 else path
        if rng.random() < 0.1:
            fuzzing.damage_place(rng, victim)
        else:
            victim.write_bytes(fuzzing.damage(rng, victim.read_bytes(), others))
        return path

    ends = fuzzing.fuzz("text_list", 0.16, make, read_crawl, tmp_path)
    assert {"read", "rejected rows", "UsageError"} <= set(ends), ends


def test_damaged_parquet_lists(fuzzing, tmp_path):
    odd = {
        "large": pa.large_string(), "view": pa.string_view(), "binary": pa.binary(),
        "list": pa.list_(pa.string()),
        "dictionary": pa.dictionary(pa.int32(), pa.string()), "number": pa.float64(), "null": pa.null(),
        "time": pa.timestamp("us"), "struct": pa.struct([("a", pa.string())]), "integer": pa.int64(),
    }  # fmt: skip

    def column(kind, rng):
        values = {
            "list": ["a", "b\0"], "number": float(rng.choice([1.0, np.nan, np.inf, 1e300])), "null": None,
            "binary": b"\xff\xfe\0", "time": 10**15, "struct": {"a": "x"},
            "integer": int(rng.integers(-3, 2**40)),
        }  # fmt: skip
        value = values.get(kind, str(rng.choice(["cat", "x\0y", "", "é" * 9, "1"])))
        return pa.array([value] * 4, odd[kind])

    def make(rng, directory):
        path = directory / "list.parquet"
        table = {"path": [f"{i}.jpg" for i in range(4)], "label": ["cat", "cat", "dog", "dog"]}
        if rng.random() < 0.4:
            name = str(rng.choice(["path", "label", "rank", "title", "tags", "split", "source", "query"]))
            table[name] = column(str(rng.choice(list(odd))), rng)
        pa.parquet.write_table(pa.table(table), path, compression=str(rng.choice(["none", "zstd", "snappy"])))
        if rng.random() < 0.75:
            path.write_bytes(fuzzing.damage(rng, path.read_bytes()))
        elif rng.random() < 0.2:
            fuzzing.damage_place(rng, path)
        return path

    ends = fuzzing.fuzz("parquet_list", 0.14, make, read_crawl, tmp_path)
    assert {"read", "UsageError"} <= set(ends), ends


def test_damaged_webvision_trees(fuzzing, tmp_path):
    names = [name for name in TREE if TREE[name]]

    def make(rng, directory):
        for name, text in TREE.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for _ in range(rng.integers(1, 3)):
            victim = directory / names[rng.integers(len(names))]
            if not victim.is_file():
                continue
            if rng.random() < 0.15:
                fuzzing.damage_place(rng, victim)
            else:
                others = [TREE[name].encode() for name in names]
                victim.write_bytes(fuzzing.damage(rng, victim.read_bytes(), others))
        return directory

    ends = fuzzing.fuzz("webvision", 0.2, make, read_crawl, tmp_path)
    assert {"read", "rejected rows", "UsageError"} <= set(ends), ends


def test_damaged_datasets_of_other_tools(fuzzing, tmp_path):
    layouts = fuzzing.load("crawl/test_layouts.py").LAYOUTS
    whole = {}
    for number, (name, (write, *_)) in enumerate(layouts.items()):
        (tmp_path / f"whole{number}").mkdir()
        top = tmp_path / f"whole{number}" / "crawl"
        whole[name] = top.parent, (write(top) or top).relative_to(top.parent)

    def make(rng, directory):
        top, relative = whole[str(rng.choice(list(whole)))]
        shutil.copytree(top, directory, dirs_exist_ok=True)
        files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.suffix != ".jpg"]
        victim = files[rng.integers(len(files))]
        if rng.random() < 0.1:
            fuzzing.damage_place(rng, victim)
        else:
            victim.write_bytes(fuzzing.damage(rng, victim.read_bytes()))
        return directory / relative

    def feed(path):
        config = config_lib.from_dict({"ingest": {"path": str(path)}})
        ingest.estimate(config, PlanContext())
        end = read_crawl(path)
        crawl = ingest.read_crawl(config)
        for picture in crawl.rows["path"].to_pylist()[:10]:
            found = probe.probe_file(os.path.join(crawl.root, picture), 10**7, 10**8, 1)
            assert found.status is None or found.status in STATUS
        return end

    ends = fuzzing.fuzz("dataset", 0.15, make, feed, tmp_path)
    assert {"read", "UsageError"} <= set(ends), ends


def test_damaged_configurations(fuzzing, tmp_path):
    def make(rng, directory):
        path, overrides = directory / "config.yaml", []
        path.write_text(YAML, encoding="utf-8")
        if rng.random() < 0.1:
            return path, [OVERRIDES[rng.integers(len(OVERRIDES))]]
        if rng.random() < 0.35:
            text = fuzzing.damage(rng, OVERRIDES[rng.integers(len(OVERRIDES))].encode())
            overrides = [os.fsdecode(text)]  # as the command line gives it
            path.with_name("override.bin").write_bytes(text)
        elif rng.random() < 0.1:
            fuzzing.damage_place(rng, path)
        else:
            if rng.random() < 0.3:
                (directory / "base.yaml").write_bytes(fuzzing.damage(rng, YAML.encode()))
                path.write_text("base: base.yaml\nseed: 4\n")
            path.write_bytes(fuzzing.damage(rng, path.read_bytes(), [YAML.encode()]))
        return path, overrides

    def feed(given):
        config = config_lib.load_config(str(given[0]), given[1])
        json.dumps(config_lib.to_dict(config), allow_nan=False).encode()  # what keys and markers are made of
        return "read"

    ends = fuzzing.fuzz("configuration", 0.15, make, feed, tmp_path)
    assert {"read", "UsageError"} <= set(ends), ends


@pytest.fixture(scope="module")
def checkpoints(fuzzing, tmp_path_factory):
    """File name → bytes: one small checkpoint of each format."""
    import h5py
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("checkpoints")
    state = collections.OrderedDict()
    state["module.a.weight"] = writers.tensor("0", 0, (2, 3), (3, 1), 12)
    state["module.b.bias"] = writers.tensor("0", 6, (3, 2), (1, 3), 12)
    storages = {"0": np.arange(12, dtype="float32")}
    writers.write_zip(folder / "zip.pth", {"epoch": 3, "state_dict": state}, storages)
    writers.write_legacy(folder / "legacy.pth", state, storages)
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(3, "float16")}
    safetensors.numpy.save_file(arrays, folder / "x.safetensors")
    with h5py.File(folder / "x.weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["0"], group["1"] = arrays["a"], arrays["b"]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_damaged_checkpoints(fuzzing, checkpoints, tmp_path):
    names, others = list(checkpoints), list(checkpoints.values())

    def make(rng, directory):
        name = names[rng.integers(len(names))]
        path = directory / name
        path.write_bytes(checkpoints[name])
        if rng.random() < 0.05:
            fuzzing.damage_place(rng, path)
        else:
            path.write_bytes(fuzzing.damage(rng, checkpoints[name], others))
        return path

    def feed(path):
        tensors = checkpoint_reader.read_checkpoint(path)
        assert tensors and all(isinstance(tensor, np.ndarray) for tensor in tensors.values())
        assert sum(tensor.nbytes for tensor in tensors.values()) < 1e6
        return "read"

    ends = fuzzing.fuzz("checkpoint", 0.15, make, feed, tmp_path)
    assert {"read", "UsageError"} <= set(ends), ends


@pytest.mark.parametrize(
    "place", ["list.csv", "list.parquet", "classes.txt", "info/synsets.txt", "config.yaml"]
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(place, fuzzing, tmp_path):
    def make(rng, directory):
        for name, text in (TREE if place.startswith("info") else {"list.csv": CSV}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
        (directory / place).unlink(missing_ok=True)
        os.mkfifo(directory / place)
        return directory

    def feed(directory):
        if place == "config.yaml":
            return config_lib.load_config(str(directory / place))
        path = directory if place.startswith("info") else directory / place.replace("classes.txt", "list.csv")
        return read_crawl(path)

    fuzzing.fuzz("pipe", 1e-9, make, feed, tmp_path, longest_s=1.0)
