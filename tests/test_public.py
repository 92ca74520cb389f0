"""What `import urnet_tf` offers: light, complete, documented with examples that run."""

import ast
import inspect
import subprocess
import sys

import pytest

import urnet_tf

# These open with a line, and their messages are theirs: nothing to show.
ERRORS = {"RunError", "UsageError"}


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, urnet_tf; assert not {'numpy', 'tensorflow', 'keras', 'pyarrow'} & set(sys.modules); "
        "import numpy as np; table = urnet_tf.compute_weights([0, 0, 1, 1], np.full((4, 2), 0.5)); "
        "assert table.num_rows == 4; urnet_tf.out_of_fold_predictions; urnet_tf.pack_targets; urnet_tf.run; "
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imports_for_checkers():
    """Name → where type checkers find it."""
    tree = ast.parse(inspect.getsource(urnet_tf))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: (node.module, alias.name) for node in block.body for alias in node.names
    }


def test_checkers_see_what_is_imported():
    for name, (module, inside) in imports_for_checkers().items():
        assert urnet_tf._OFFERED[name] == (module if inside == name else f"{module}:{inside}")


def test_it_says_what_it_offers():
    assert set(urnet_tf.__all__) == set(urnet_tf._OFFERED) == set(imports_for_checkers())
    assert set(urnet_tf.__all__) <= set(dir(urnet_tf))
    with pytest.raises(AttributeError, match="no attribute 'weights'"):
        getattr(urnet_tf, "weights")  # noqa: B009


@pytest.mark.parametrize("name", urnet_tf.__all__)
def test_each_name_has_an_example(name):
    """test_examples.py runs them."""
    value = getattr(urnet_tf, name)
    assert value.__doc__
    assert name in ERRORS or ">>> " in inspect.getdoc(value)
