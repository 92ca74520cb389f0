#!/usr/bin/env bash
# The main job on a fresh machine: set up, draw a small noisy crawl, run the whole flow on it.
# Usage: bash experiments/quickstart.sh [directory for the results, default runs/quickstart]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_environment

results=${1:-runs/quickstart}
if [ ! -d "$results/crawl" ]; then
  mkdir -p "$results"
  urnet draw --out "$results/crawl"
fi
urnet run --config experiments/configs/quickstart.yaml --data "$results/crawl" --workdir "$results/work"
