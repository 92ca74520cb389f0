# Makes .venv with everything in requirements.txt and this package; sourced by the scripts that a
# newcomer starts. Does nothing when it was done before for the same requirements.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Expected Python 3.11, 3.12 or 3.13 on the PATH (or its command in \$PYTHON); found $(python3 --version 2>&1 || echo none). Install one and start again." >&2
  return 1
}

setup_environment() {
  local python stamp
  stamp=$(cat requirements.txt pyproject.toml setup.py | cksum)
  if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
    if [ -L .venv ]; then
      echo "Expected no link at .venv, since what it leads to would be emptied; remove it and start again." >&2
      return 1
    fi
    python=$(find_python)
    echo "Installing into .venv (once, some minutes on a slow line) ..."
    "$python" -m venv --clear .venv || {
      echo "Python's venv module is incomplete here; on Debian: apt-get install python3-venv" >&2
      return 1
    }
    # uv resolves the pinned list in seconds; pip does the same, slower, where uv cannot be had. Compiled code
    # saves every process seconds where PYTHONDONTWRITEBYTECODE is set; pip compiles without being told.
    if .venv/bin/pip install --quiet "$(grep -o '^uv==[^ ;]*' requirements.txt)" 2>/dev/null; then
      .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -r requirements.txt ||
        .venv/bin/pip install --quiet -r requirements.txt
    else
      .venv/bin/pip install --quiet -r requirements.txt
    fi
    .venv/bin/pip install --quiet --no-deps --editable .
    echo "$stamp" > .venv/stamp
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
