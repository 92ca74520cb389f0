"""The code blocks of the README and of docs/ run, page by page."""

import contextlib
import io
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from urnet_tf.stages import NAMES

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: (.+) -->\n)?```(bash|python)\n(.*?)^```$", re.M | re.S)
SET_UP = ("bash experiments/quickstart.sh", "bash tests/run.sh")


def blocks_of(page):
    """(reason not to run it or "", language, text) of each block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


class Newcomer:
    """Types in what a page says, in a directory with what its commands speak of."""

    def __init__(self, urnet, image, run_flags=()):
        self.urnet, self.image, self.run_flags = urnet, image, run_flags

    def follow(self, page, known=()):
        """Runs the page's blocks in order; yields each command, or Python block, and what it printed.

        Commands in `known` are left out: those of an earlier page, which has not changed since.
        """
        for reason, language, block in blocks_of(page):
            if language == "python":
                code = compile(block, str(page), "exec")
                if not reason:
                    yield block, self._print_of(lambda code=code: exec(code, {"__name__": "__main__"}))
            elif not reason:
                for line in block.replace("\\\n", "").strip().splitlines():
                    if line not in SET_UP and line not in known:
                        yield line, self._type(line.replace("0001.jpg", self.image))

    def _type(self, line):
        program, *arguments = shlex.split(line)
        assert program == "urnet", f"mark this block as not run, or teach this test to run it: {line}"
        if arguments[0] in ("run", "noise") and "--dry_run" not in arguments:
            # What would compute for minutes gets the crawl and the settings of a run that is complete.
            workdir = arguments[arguments.index("--workdir") + 1]
            arguments = [arguments[0], "--workdir", workdir, *(self.run_flags or arguments[1:])]
        done = self.urnet(*arguments)
        assert done.returncode == 0, line
        return done.stdout + done.stderr

    @staticmethod
    def _print_of(action):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            action()
        return printed.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with what the pages' commands speak of."""
    from urnet_tf.drawn.crawl import draw_crawl

    directory = tmp_path_factory.mktemp("newcomer")
    small = {"num_classes": 4, "image_size_px": 48, "val_per_class": 2, "test_per_class": 2, "workers": 1}
    draw_crawl(directory / "photos", images=60, layout="folder", hostile=False, **small)
    draw_crawl(directory / "webvision", images=60, layout="webvision", hostile=False, **small)
    (directory / "photos.csv").write_text("path,label\nphotos/a.jpg,a\nphotos/b.jpg,b\n")
    (directory / "scores.csv").write_text("path,score\na.jpg,1.0\n")
    (directory / "experiments").symlink_to(REPOSITORY / "experiments")
    return directory


@pytest.fixture(scope="module")
def typed():
    """What was typed in so far, and what it printed."""
    return {}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.name)
def test_the_blocks_run_in_order(
    page, place, typed, finished_run, drawn_crawl, small_run, urnet_here, monkeypatch
):
    # The run itself is the finished one; the command is given its crawl and settings, and has nothing to do.
    if not (place / "runs" / "photos").exists():
        shutil.copytree(finished_run[0], place / "runs" / "photos")
    monkeypatch.chdir(place)
    newcomer = Newcomer(urnet_here, "hostile_empty.jpg", ["--data", str(drawn_crawl), *small_run])
    printed = dict(newcomer.follow(page, typed))
    typed.update(printed)
    if page.name == "README.md":
        ran = printed["urnet run --data photos --workdir runs/photos"]
        assert ran.count("skipped") == len(NAMES)
        assert "Not used" in printed["urnet why 0001.jpg --workdir runs/photos"]
        assert "labels look wrong" in printed["urnet noise --data photos --workdir runs/photos"]
        assert (place / "saved_models" / "urnet" / "1" / "saved_model.pb").exists()
    if page.name == "judging.md":
        assert_judgements_arrive(place)


def assert_judgements_arrive(place):
    """What is filled in arrives in the log and in a plan, and nothing else does."""
    import pandas as pd

    from urnet_tf.crawl import corrections

    judged = pd.read_csv(place / "judged.csv", dtype=str, keep_default_na=False)
    weights = pd.read_parquet(place / "runs/photos/train/weights.parquet")
    assert list(judged["path"]) == list(weights.query("right_prob < 0.5").sort_values("right_prob")["path"])
    assert not len(corrections.read([place / "judged.csv"]))
    judged.loc[0, "verdict"], judged.loc[1, ["verdict", "new_label"]] = "none_of_these", ("wrong_class", "x")
    judged.to_csv(place / "judged.csv", index=False)
    (add,) = [block for _, _, block in blocks_of(REPOSITORY / "docs" / "judging.md") if "append(" in block]
    exec(compile(add, "judging.md", "exec"), {})
    rows = corrections.read([place / "photos_judged.parquet"]).to_pylist()
    assert {(row["path"], row["verdict"], row["new_label"]) for row in rows} == {
        (judged["path"][0], "none_of_these", ""), (judged["path"][1], "wrong_class", "x"),
    }  # fmt: skip


@pytest.mark.slow
def test_the_readme_runs_as_it_is(place, urnet_here, monkeypatch):
    monkeypatch.chdir(place)
    shutil.rmtree(place / "runs" / "photos", ignore_errors=True)
    image = next((place / "photos" / "train").rglob("*.jpg")).relative_to(place / "photos")
    for _ in Newcomer(urnet_here, str(image)).follow(REPOSITORY / "README.md"):
        pass
    assert (place / "runs" / "photos" / "report" / "index.html").exists()


def test_the_set_up_scripts_are_named_and_parse():
    readme = PAGES[0].read_text(encoding="utf-8")
    for command in SET_UP:
        assert command in readme
        subprocess.run(["bash", "-n", REPOSITORY / command.split()[1]], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_shell_blocks_parse(page):
    for _, language, block in blocks_of(page):
        if language == "bash":
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_the_scripts_that_pages_name_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"\b(?:experiments|tests|docs)/[\w/]+\.(?:py|sh|yaml)\b", text))
    assert named and not [name for name in named if not (REPOSITORY / name).exists()]


def test_the_second_run_of_the_tests_is_the_one_that_is_described():
    script = (REPOSITORY / "tests" / "run.sh").read_text()
    (command,) = re.findall(r"^ +(TF_ENABLE_ONEDNN_OPTS=0 .*)$", script, re.M)
    assert f"`{command}`" in (REPOSITORY / "docs" / "contributing.md").read_text()
    folders = command.split()[command.split().index('slow"') + 1 :]
    marked = {
        path.parent.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        if "pytest.mark.onednn" in path.read_text(encoding="utf-8") and path != pathlib.Path(__file__)
    }
    assert marked == set(folders)
