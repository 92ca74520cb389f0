"""Damaged pictures of all formats through ingest, its packing, and what serves images.

Each ends as an image, or as a status that the schema knows with a reason; libraries print nothing.
"""

import os
import shutil

import numpy as np
import pytest

from urnet_tf.images.inspection import Inspector
from urnet_tf.images.packing import Packer
from urnet_tf.images.thumbnails import THUMBNAIL_BYTES
from urnet_tf.schema import STATUS


@pytest.fixture(scope="module")
def good_files(fuzzing):
    """Name → encoded picture, and the function that damages one of them by a seed."""
    pictures = fuzzing.load("serving/test_mutated_bytes.py")
    return pictures.make_good_files(), pictures.mutate


def picture(good_files):
    files, mutate = good_files

    def make(rng, directory):
        _, data = mutate(files, int(rng.integers(1 << 31)))
        (directory / "a.jpg").write_bytes(data)
        return directory

    return make


def test_damaged_pictures_are_packed_or_left_out(fuzzing, good_files, tmp_path, capfd):
    import tensorflow as tf

    from urnet_tf.export.preparation import Preparation
    from urnet_tf.export.quiet import CapturedLibraryOutput

    limits = {"max_pixels": 10**7, "min_side_px": 8, "max_bytes": 10**7}
    prepare = tf.function(Preparation(32).decode, input_signature=[tf.TensorSpec([None], tf.string)])

    with CapturedLibraryOutput() as printed:
        packer = Packer(short_side_px=48, jpeg_quality=95, max_pixels=10**7, printed=printed.size)
        inspector = Inspector(packer, **limits, decoders=1, thumbnails=True)

        def feed(directory):
            found = inspector.inspect([str(directory / "a.jpg")], 1)[0]
            served, valid = prepare(tf.constant([(directory / "a.jpg").read_bytes()]))
            assert np.isfinite(served.numpy()).all()
            if found.probe.status is None and found.packed.record:
                assert found.packed.record[:2] == b"\xff\xd8" and bool(valid.numpy()[0]), (
                    "trained on, so served"
                )
                assert found.packed.thumbnail.shape == (THUMBNAIL_BYTES,)
                return "image"
            assert (found.probe.status or found.packed.refused.status) in STATUS, found.probe
            assert "\n" not in found.probe.reason and len(found.probe.reason) < 400
            return "left out"

        (tmp_path / "a.jpg").write_bytes(good_files[0]["jpeg"])
        assert feed(tmp_path) == "image"  # and graphs are built
        ends = fuzzing.fuzz("picture", 0.12, picture(good_files), feed, tmp_path)
    assert {"image", "left out"} <= set(ends), ends
    assert "JPEG" not in capfd.readouterr().err


def test_damage_to_any_file_of_a_finished_run_is_noticed(fuzzing, finished_run, tmp_path):
    from urnet_tf import store
    from urnet_tf.stages import NAMES

    root = tmp_path / "copy"
    shutil.copytree(finished_run[0], root)
    files = [path for name in NAMES for path in sorted((root / name).rglob("*")) if path.is_file()]
    # Logs and keys are read by nobody.
    files = [path for path in files if "tensorboard" not in path.parts and path.name != "key.txt"]
    assert len(files) > 60

    def make(rng, directory):
        return files[rng.integers(len(files))], int(rng.integers(5)), rng

    def feed(given):
        path, kind, rng = given
        before, times = path.read_bytes(), path.stat()
        stage = path.relative_to(root).parts[0]
        if kind == 0:
            path.unlink()
        else:
            place = int(rng.integers(len(before)))
            path.write_bytes({
                1: before[: len(before) // 2],
                2: before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :],
                3: bytes(len(before)),
                4: b"",
            }[kind])  # fmt: skip
        workdir = store.Workdir(root)
        noticed = workdir.marker(stage) is None or bool(workdir.find_damage(stage))
        same = path.exists() and path.read_bytes() == before
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert noticed or same, path
        return "noticed"

    fuzzing.fuzz("finished_run", 0.08, make, feed, tmp_path / "inputs")
