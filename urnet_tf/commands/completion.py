"""`urnet completion`: what a shell completes after Tab, as a script; and the listed paths that `why` takes.

In bash and, by its `bashcompinit`, in zsh: commands, flags, the values of flags that have a list of them, and
files. After `why` and `--at` also paths as the crawl lists them, which need not be on this disk.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

from urnet_tf import store
from urnet_tf.errors import UsageError

SHELLS = ("bash", "zsh")
_MOST_PATHS = 200

_SCRIPT = r"""# Tab completion of urnet; the output of `urnet completion`
_urnet() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" workdir="" i line
  [ "$word" = "=" ] && word=""
  [ "$before" = "=" ] && before="${COMP_WORDS[COMP_CWORD-2]}"
  COMPREPLY=()
  local IFS=$'\n'
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
    return
  fi
  case "$before" in
@CHOICES@
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "@FLAGS@" -- "$word")); return ;;
  esac
  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
  [ "${#COMPREPLY[@]}" -gt 0 ] && return  # files of this disk come first
  if [ "$before" = "--at" ] || { [ "${COMP_WORDS[1]}" = "why" ] && [ "${before#--}" = "$before" ]; }; then
    for ((i = 1; i < COMP_CWORD; i++)); do
      case "${COMP_WORDS[i]}" in
        --workdir) workdir="${COMP_WORDS[i+1]}"; [ "$workdir" = "=" ] && workdir="${COMP_WORDS[i+2]}" ;;
        --workdir=*) workdir="${COMP_WORDS[i]#--workdir=}" ;;
      esac
    done
    while IFS= read -r line; do
      [ -n "$line" ] && COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" completion paths "$word" ${workdir:+"--workdir=$workdir"} 2>/dev/null)
    case "${COMPREPLY[*]}" in */) compopt -o nospace 2>/dev/null ;; esac
  fi
}
complete -o filenames -F _urnet urnet
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def format_script(
    shell: str, commands: Sequence[str], flags: Sequence[str], choices: Mapping[str, Sequence[str]]
) -> str:
    """The script of a shell.

    Args:
      shell: one of SHELLS.
      commands: what may stand behind `urnet`.
      flags: names, without dashes.
      choices: flag → its values.

    Raises:
      UsageError: another shell.
    """
    if shell not in SHELLS:
        raise UsageError(f"Expected `completion` of {' or '.join(SHELLS)}; received {shell!r}.")
    lines = [
        f'    --{flag}) COMPREPLY=($(compgen -W "{_words(values)}" -- "$word")); return ;;'
        for flag, values in choices.items()
    ]
    script = _SCRIPT.replace("@COMMANDS@", _words(commands)).replace("@CHOICES@", "\n".join(lines))
    script = script.replace("@FLAGS@", _words([f"--{flag}" for flag in flags]))
    return (_ZSH if shell == "zsh" else "") + script


def _words(texts: Sequence[str]) -> str:
    return "\n".join(texts)  # as the script splits them


def find_paths(workdir_root: str | os.PathLike, beginning: str) -> list[str]:
    """Listed paths that begin so, cut behind the next slash, at most `_MOST_PATHS`; none without a run."""
    import pyarrow.compute as pc

    table = pathlib.Path(workdir_root) / "pack" / "instances.parquet"
    if not table.exists():
        return []
    column = store.read_table(table, ["path"], where=pc.starts_with(pc.field("path"), beginning))["path"]
    found: dict[str, None] = {}
    for path in column.to_pylist():
        rest = path[len(beginning) :]
        found[path if "/" not in rest else beginning + rest[: rest.index("/") + 1]] = None
        if len(found) >= _MOST_PATHS:
            break
    return [path for path in found if path.isprintable()]
