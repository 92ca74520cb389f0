"""Tab completion, in a real bash: commands, flags, their values, files and listed paths."""

import shutil
import subprocess

import pytest
from urnet_fixtures.runs import make_workdir

from urnet_tf.commands.completion import find_paths, format_script
from urnet_tf.errors import UsageError

BASH = shutil.which("bash")


def complete(line, script, cwd):
    """What bash offers behind the last word of a line."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    asked = (
        f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _urnet 2>/dev/null; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run([BASH, "-c", asked], cwd=cwd, capture_output=True, text=True, check=True)
    return sorted(filter(None, done.stdout.split("\n")))


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes(tmp_path):
    values = {"format": ["text", "json"]}
    script = format_script("bash", ["run", "review", "why"], ["workdir", "format"], values)
    # The program that lists paths, as it would be called.
    script += 'urnet() { printf "%s\\n" "$@" > asked; printf "%s\\n" "$3"red\\ fox/ "$3*"; }\n'
    (tmp_path / "my photo.jpg").write_text("")
    for line, offered in (
        ("urnet r", ["review", "run"]),
        ("urnet why --f", ["--format"]),
        ("urnet why --format ", ["json", "text"]),
        ("urnet why --format = t", ["text"]),
        ("urnet run my", ["my photo.jpg"]),
        ("urnet why --workdir my", ["my photo.jpg"]),
        ("urnet why my", ["my photo.jpg"]),
        ("urnet why --workdir your", []),
        ("urnet why --workdir runs/x your", ["your*", "yourred fox/"]),
        ("urnet review --at your", ["your*", "yourred fox/"]),
    ):
        assert complete(line, script, tmp_path) == offered, line
        if line.endswith("runs/x your"):
            asked = (tmp_path / "asked").read_text()
            assert asked == "completion\npaths\nyour\n--workdir=runs/x\n"


def test_listed_paths_go_on_at_the_next_slash(tmp_path):
    root = make_workdir(tmp_path)
    assert sorted(find_paths(root, "")) == ["flickr/", "google/", "val/"]
    assert find_paths(root, "google/") == ["google/cat/", "google/dog/"]
    assert sorted(find_paths(root, "google/cat/")) == ["google/cat/12.jpg", "google/cat/b.jpg"]
    assert find_paths(root, "nothing") == find_paths(tmp_path / "nowhere", "") == []


def test_other_shells_are_refused():
    assert format_script("zsh", ["run"], [], {}).startswith("autoload")
    with pytest.raises(UsageError, match="bash or zsh"):
        format_script("fish", [], [], {})
