#!/usr/bin/env bash
# Sets up like the quickstart, then runs the tests. Arguments go to pytest, like `-m slow`.
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/setup.sh"
setup_environment
exec python -m pytest "$@"
