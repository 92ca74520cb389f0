"""The examples in docstrings run, and what our code calls is not deprecated."""

import doctest
import importlib
import pathlib
import warnings

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((REPOSITORY / "urnet_tf").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


class Runner(doctest.DocTestRunner):
    """Lets `--without-tensorflow` skip an example that imports it, which is no failure."""

    def report_unexpected_exception(self, out, test, example, exc_info):
        if isinstance(exc_info[1], pytest.skip.Exception):
            raise exc_info[1]
        super().report_unexpected_exception(out, test, example, exc_info)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # examples may write files
    runner = Runner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in doctest.DocTestFinder().find(module):
        runner.run(example)
    assert runner.tries and not runner.failures


def test_there_are_examples():
    assert {"urnet_tf.reweighting.class_weight", "urnet_tf.text_rules"} <= set(MODULES)


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_what_our_code_is_warned_of_is_an_error(kind):
    with pytest.raises(kind):
        warnings.warn_explicit("old", kind, "fit.py", 1, module="urnet_tf.training.fit")
    warnings.warn_explicit("old", DeprecationWarning, "ops.py", 1, module="a_library.ops")
