import pytest

from urnet_tf.costs.units import format_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""), (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_345, "12.3 kB"),
        (99_960, "100 kB"), (999_600, "1.0 MB"), (651e6, "651 MB"), (3.44e9, "3.4 GB"), (24e9, "24.0 GB"),
        (1e16, "10,000 TB"),
    ],
)  # fmt: skip
def test_bytes_as_people_write_them(count, text):
    assert format_bytes(count) == text
