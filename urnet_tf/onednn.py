"""Switches on oneDNN, TensorFlow's fast kernels for x86 processors, where they pay.

TensorFlow switches them on by itself where the processor has AVX512-VNNI or a later extension. They
pay from AVX2 on: a training step of ResNeXt-50 has 0.67 of PyTorch's speed without them at 224 px and
0.96 with them, at 64 px 0.44 and 1.06. TensorFlow reads the variable once, when it is loaded.
"""

import os
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def switch_on_onednn(processor_file: str = "/proc/cpuinfo") -> None:
    """Sets the variable for this process and those that it starts.

    Does nothing where the user has set it, where TensorFlow is loaded already, and where the
    processor is not known to have AVX2.

    Args:
      processor_file: in the format of Linux' /proc/cpuinfo; it may be missing.
    """
    if VARIABLE not in os.environ and "tensorflow" not in sys.modules and _has_avx2(processor_file):
        os.environ[VARIABLE] = "1"


def _has_avx2(processor_file: str) -> bool:
    try:
        with open(processor_file, encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx2" in flags.split()
