"""Hundreds of damaged files, in batches with good ones, through a real SavedModel; slow: two thousand.

No crash, no exception, no change of a bit in the answers to the good ones, no memory by the gigabyte.
The files are made from seeds. They are served by a process of its own, which is this file run as

    python tests/serving/test_mutated_bytes.py SAVED_MODEL FIRST_SEED COUNT [BAD_IN_A_BATCH]

so a decoder that crashes fails the test instead of ending it, and one seed can be looked at alone.
"""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

BATCH, GOOD = 32, 8
SPREAD = BATCH // GOOD  # every fourth file is a good one
MAX_MB = 700  # that the decoders may add at their peak; without their check of sizes it is more
MUTATIONS = ("flip", "truncate", "splice", "insert", "remove", "extreme", "size", "zeros")


def draw(seed, size=(61, 44), mode="RGB"):
    """A smooth picture with some texture."""
    generator = np.random.default_rng(seed)
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 4), dtype=np.uint8), "RGBA")
    fine = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    fine = (fine + generator.integers(-9, 10, fine.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(fine[..., :channels].squeeze(), mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_good_files():
    """Name → encoded picture, of all formats and kinds that are mutated."""
    picture, clear = draw(0), draw(1, mode="RGBA")
    frames = [draw(seed) for seed in (2, 3, 4)]
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    deep = Image.fromarray(np.asarray(draw(5, mode="L")).astype(np.uint16) * 257)
    animation = {"save_all": True, "append_images": frames[1:], "duration": 80}
    return {
        "jpeg": encode(picture, "JPEG", quality=90),
        "jpeg_progressive": encode(picture, "JPEG", quality=90, progressive=True),
        "jpeg_exif": encode(picture, "JPEG", exif=exif),
        "jpeg_cmyk": encode(picture.convert("CMYK"), "JPEG"),
        "png": encode(picture, "PNG"),
        "png_alpha": encode(clear, "PNG"),
        "png_16_bits": encode(deep, "PNG"),
        "png_palette": encode(picture.quantize(200), "PNG", transparency=3),
        "gif": encode(picture.quantize(64), "GIF"),
        "gif_animated": encode(frames[0], "GIF", **animation),
        "bmp": encode(picture, "BMP"),
        "bmp_palette": encode(picture.quantize(256), "BMP"),
        "webp": encode(picture, "WEBP", quality=80),
        "webp_lossless": encode(picture, "WEBP", lossless=True),
        "webp_alpha": encode(clear, "WEBP", quality=80),
        "webp_animated": encode(frames[0], "WEBP", **animation),
    }


def mutate(files, seed):  # noqa: C901  (a case a fault)
    """A damaged file (name of its origin, bytes), the same for every call."""
    generator = np.random.default_rng(seed)
    names = list(files)
    name = names[seed % len(names)]
    data = bytearray(files[name])
    for kind in generator.choice(MUTATIONS, 1 if generator.random() < 0.7 else 2):
        start, stop = sorted(generator.integers(0, len(data) + 1, 2))
        if kind == "flip":
            for position in generator.integers(0, len(data), generator.integers(1, 9)):
                data[position] ^= 1 << generator.integers(8)
        elif kind == "truncate":
            del data[generator.integers(1, len(data)) :]
        elif kind == "splice":
            other = files[names[generator.integers(len(names))]]
            data[start:] = other[generator.integers(len(other)) :]
        elif kind == "insert":
            data[start:start] = generator.bytes(generator.integers(1, 65))
        elif kind == "remove":
            del data[start : start + int(generator.integers(1, 65))]
        elif kind == "extreme":
            at, width = field(data, generator), int(generator.choice([1, 2, 4]))
            value = generator.choice([0, 1, 0x7F, 0x80, 0xFF, 0x2000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
            order = "little" if generator.random() < 0.5 else "big"
            data[at : at + width] = (int(value) % 256**width).to_bytes(width, order)
        elif kind == "size":
            at, form = size_field(data)
            limit = 256 ** (struct.calcsize(form) // 2)
            sides = [int(side) % limit for side in generator.choice([0, 1, 7000, 20000, 65535, 2**31 - 1], 2)]
            data[at : at + struct.calcsize(form)] = struct.pack(form, *sides)
        else:
            data[start:stop] = bytes(stop - start)
        data = data or bytearray(1)
    if name.startswith("png") and generator.random() < 0.7:
        mend_png(data)  # else most of them end at the first checksum
    return name, bytes(data)


def field(data, generator):
    """Where a header field is, or may be."""
    places = [0, 12, 24, size_field(data)[0], int(generator.integers(0, len(data)))]
    return min(places[generator.integers(len(places))] + int(generator.integers(0, 12)), len(data))


def size_field(data):
    """Where width and height stand, and how."""
    start, frame = bytes(data[:4]), max(data.find(b"\x2c\x00\x00\x00\x00"), 0)
    if start[:3] == b"\xff\xd8\xff":
        return max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"), 0) + 5, ">HH"
    if start == b"RIFF":
        return 26 if data[12:16] == b"VP8 " else 24, "<HH"
    known = {b"\x89PNG": (16, ">II"), b"GIF8": (frame + 5, "<HH"), b"BM": (18, "<II")}
    return next((place for magic, place in known.items() if start.startswith(magic)), (0, ">HH"))


def mend_png(data):
    """Makes the checksums of all complete chunks right, in place."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4


def serve(path, first, count, bad_in_batch):
    """Serves the mutants of `count` seeds, and says what became of them; raises on a changed answer."""
    import tensorflow as tf

    files = make_good_files()
    readable = [data for name, data in files.items() if name != "webp_animated"]
    good = [readable[i % len(readable)] for i in range(GOOD)]
    model = tf.saved_model.load(path)  # kept while its function is called
    signature = model.signatures["serving_default"]

    def answers(batch):
        outputs = signature(image_bytes=tf.constant(batch))
        return {name: values.numpy() for name, values in outputs.items()}

    def between(bad):
        batch = [b""] * BATCH
        batch[::SPREAD] = good
        free = [i for i in range(BATCH) if i % SPREAD]
        for place, data in zip(free, bad, strict=False):
            batch[place] = data
        return batch

    def check(found, seeds):
        for name, values in found.items():
            if values[::SPREAD].tolist() != expected[name][::SPREAD].tolist():
                raise AssertionError(f"{name} of good files changed beside the mutants of seeds {seeds}")

    expected = answers(between([]))
    assert expected["valid"].nonzero()[0].tolist() == list(range(0, BATCH, SPREAD))
    before, read = peak_mb(), 0
    for start in range(first, first + count, bad_in_batch):
        seeds = list(range(start, min(start + bad_in_batch, first + count)))
        print(json.dumps(seeds), flush=True)
        found = answers(between([mutate(files, seed)[1] for seed in seeds]))
        check(found, seeds)
        probabilities = found["probabilities"]
        assert np.isfinite(probabilities).all() and (probabilities[~found["valid"]] == 0).all(), seeds
        read += int(found["valid"].sum()) - GOOD
    check(answers(between([])), "before")
    print(json.dumps({"read": read, "added_mb": peak_mb() - before}), flush=True)


def peak_mb():
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    )


def run(path, first, count, bad_in_batch=BATCH - GOOD):
    """The lines that the serving process printed, and what went wrong, if anything."""
    arguments = [str(path), str(first), str(count), str(bad_in_batch)]
    command = [sys.executable, "-X", "faulthandler", __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if not done.returncode:
        return lines, None
    told = [line for line in done.stderr.splitlines() if not line.startswith("Extension modules")]
    return lines, f"exit code {done.returncode}: " + "\n".join(told[-15:])


@pytest.mark.parametrize("files", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_harm_nobody(files, tiny_version):
    lines, problem = run(tiny_version, 0, files)
    if problem:  # narrow it down to one seed
        seeds = lines[-1]
        alone, problem_alone = run(tiny_version, seeds[0], len(seeds), 1)
        last = f"alone, seed {alone[-1]} fails: {problem_alone}" if problem_alone else "none of them alone"
        raise AssertionError(f"failed at seeds {seeds}: {problem}\n{last}")
    told = lines[-1]
    assert files * 0.1 < told["read"] < files * 0.7, "the mutants are too tame, or too wild"
    assert told["added_mb"] < MAX_MB


def test_the_same_seed_gives_the_same_file():
    files = make_good_files()
    first, again = ([mutate(files, seed) for seed in range(100)] for _ in range(2))
    assert first == again
    assert {name for name, _ in first} == set(files)
    changed = [data != files[name] for name, data in first]
    assert np.mean(changed) > 0.9


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(sys.argv[1], *map(int, (*sys.argv[2:4], *(sys.argv[4:] or [BATCH - GOOD]))))
