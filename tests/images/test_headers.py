"""The JPEG segments by hand; what headers promise of whole formats is in `test_probe`."""

import pytest

from urnet_tf.images.headers import Frame, Refused, Segment, is_frame, jpeg_segments, read_frame, read_size

START = b"\xff\xd8"
COMMENT = b"\xff\xfe\x00\x04hi"
FRAME = b"\xff\xc0\x00\x0b\x08\x00\x1e\x00\x28\x01\x01\x11\x00"  # 8 bits, 30 rows, 40 columns, 1 channel
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00pixels"


def test_segments_by_hand():
    data = START + COMMENT + FRAME + SCAN + COMMENT
    found = list(jpeg_segments(data))
    assert found == [Segment(0xFE, 2, 8), Segment(0xC0, 8, 21), Segment(0xDA, 21, 31)]
    assert [is_frame(segment) for segment in found] == [False, True, False]
    assert read_frame(data, found[1]) == Frame(bits=8, height=30, width=40, channels=1)


@pytest.mark.parametrize("between", [b"\xff", b"\xff\x01", b"\xff\xd0", b"\xff\x01junk"])
def test_what_stands_between_segments_is_passed_over(between):
    data = START + between + FRAME + SCAN
    first = jpeg_segments(data)[0]
    assert (first.marker, first.start) == (0xC0, 2 + len(between))
    assert read_size(data) == (40, 30)


@pytest.mark.parametrize("data", [SCAN + FRAME, b"\xff\xd9" + FRAME, FRAME[:8], b""])
def test_a_size_behind_the_picture_or_cut_off_is_none(data):
    with pytest.raises(Refused) as refused:
        read_size(START + b"\xff" + data)  # with a fill byte, so that all begin as JPEGs do
    assert refused.value.status == "decode_error"


@pytest.mark.parametrize(
    ("marker", "words"), [(0xC3, "lossless or hierarchical"), (0xC5, "hierarchical"), (0xCB, "lossless")]
)
def test_lossless_and_hierarchical_files_are_refused(marker, words):
    with pytest.raises(Refused, match=words) as refused:
        read_size(START + FRAME.replace(b"\xff\xc0", bytes([0xFF, marker])) + SCAN)
    assert refused.value.status == "unsupported"
