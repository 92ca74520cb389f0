#!/usr/bin/env bash
# Installs the lowest or the newest releases that pyproject.toml allows into an environment of its own and runs
# tests with them.
# Usage: bash tests/dependency_ranges.sh lowest|newest [arguments of pytest, default --without-tensorflow]
# $RANGES_PYTHON: the Python (default 3.11 for lowest, 3.13 for newest); $RANGES_EXTRAS: the extras besides dev
# (default: onnx and serve; tf-models-official holds TensorFlow at 2.20).
set -euo pipefail
which=${1:-}
case $which in
  lowest) resolution=lowest-direct python=${RANGES_PYTHON:-3.11} ;;
  newest) resolution=highest python=${RANGES_PYTHON:-3.13} ;;
  *) echo "Expected lowest or newest; received '$which'." >&2; exit 2 ;;
esac
shift
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/setup.sh"
setup_environment

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
extras=()
for extra in ${RANGES_EXTRAS-onnx serve} dev; do extras+=(--extra "$extra"); done
uv venv --quiet --no-python-downloads --python "$python" "$folder/venv"
uv pip compile --quiet --no-annotate --python "$folder/venv/bin/python" --resolution $resolution "${extras[@]}" \
  --output-file "$folder/requirements.txt" pyproject.toml
cat "$folder/requirements.txt"
uv pip install --quiet --python "$folder/venv/bin/python" --requirements "$folder/requirements.txt"
[ $# -gt 0 ] || set -- --without-tensorflow
PYTHONPATH=$PWD "$folder/venv/bin/python" -m pytest "$@"
