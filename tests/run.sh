#!/usr/bin/env bash
# Sets up like the quickstart, then runs the tests. Arguments go to pytest, like `-m slow`. Without any,
# the tests that depend on oneDNN run once more without it, as on processors where it is off.
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/setup.sh"
setup_environment
python -m pytest "$@"
if [ $# -eq 0 ]; then
  TF_ENABLE_ONEDNN_OPTS=0 python -m pytest -n 0 -m "onednn and not slow" tests/export tests/models
fi
