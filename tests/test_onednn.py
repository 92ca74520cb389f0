"""oneDNN is switched on before TensorFlow is loaded, where it pays and nobody has said otherwise."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

from urnet_tf.onednn import VARIABLE, switch_on_onednn

SCRIPTS = (pathlib.Path(__file__).resolve().parent.parent / "experiments").glob("**/*.py")
AVX2 = "processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu sse4_2 avx avx2 fma\n"


@pytest.fixture
def switch(tmp_path, monkeypatch):
    """(text of /proc/cpuinfo, user's variable, TensorFlow is loaded) → the variable afterwards."""

    def run(text, variable=None, loaded=False):
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        monkeypatch.delenv(VARIABLE, raising=False)
        if variable is not None:
            monkeypatch.setenv(VARIABLE, variable)
        modules = {name: module for name, module in sys.modules.items() if name != "tensorflow"}
        monkeypatch.setattr(sys, "modules", modules | ({"tensorflow": object()} if loaded else {}))
        switch_on_onednn(str(file))
        return os.environ.get(VARIABLE)

    return run


def test_it_is_switched_on_from_avx2_on(switch):
    assert switch(AVX2) == "1"
    assert switch(AVX2.replace("avx2", "avx2 avx512f avx512_vnni")) == "1"


@pytest.mark.parametrize(
    "text", ["", AVX2.replace("avx2 ", ""), AVX2.replace("avx2", "avx20"), "Features\t: fp asimd\n"]
)
def test_other_processors_are_left_to_tensorflow(switch, text):
    assert switch(text) is None


def test_a_machine_without_such_a_file_is_left_to_tensorflow(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    switch_on_onednn(str(tmp_path / "missing"))
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("variable", ["0", "1", ""])
def test_the_user_has_the_last_word(switch, variable):
    assert switch(AVX2, variable) == variable


def test_it_is_too_late_once_tensorflow_is_loaded(switch):
    assert switch(AVX2, loaded=True) is None


def test_importing_any_part_of_the_package_switches_it_on_and_loads_nothing_heavy():
    program = f"""
import builtins, io, os, sys
real, text = builtins.open, {AVX2!r}
builtins.open = lambda name, *a, **k: io.StringIO(text) if name == "/proc/cpuinfo" else real(name, *a, **k)
import urnet_tf.errors
heavy = {{"tensorflow", "keras", "numpy"}} & set(sys.modules)
print(os.environ.get("{VARIABLE}"), sorted(heavy))
"""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("1 []\n", "")


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: path.name)
def test_scripts_import_the_package_before_tensorflow(path):
    text = path.read_text(encoding="utf-8")
    if VARIABLE in text or "urnet_tf" not in text or '__name__ == "__main__"' not in text:
        return  # chooses itself, is a client without this package, or is imported by a script
    first = {}
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            line = first.get(name.split(".")[0], node.lineno)
            first[name.split(".")[0]] = min(line, node.lineno)
    heavy = [line for name, line in first.items() if name in ("tensorflow", "keras")]
    assert all(first["urnet_tf"] < line for line in heavy)
