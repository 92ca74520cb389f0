"""`urnet noise` on a finished run without what a final network gives."""

import json
import re
import shutil

import pytest

from urnet_tf.stages import NAMES

LATER = ("train", "evaluate", "export")


@pytest.fixture
def early(finished_run, tmp_path):
    """The work directory as it is when the weights are complete."""
    shutil.copytree(finished_run[0], tmp_path / "early")
    for name in (*LATER, "report"):
        shutil.rmtree(tmp_path / "early" / name)
    return tmp_path / "early"


def what_was_done(log):
    """Stage → "runs" or "complete"."""
    return dict(re.findall(r"\[\d+/\d+\] (\w+): (runs|complete)", log))


def test_the_answer_comes_first_and_a_run_goes_on_from_there(early, drawn_crawl, small_run, urnet_here):
    flags = ("--data", drawn_crawl, "--workdir", early, *small_run)
    done = urnet_here("noise", *flags)
    assert done.returncode == 0, done.stderr
    actions = what_was_done(done.stderr)
    assert [name for name, action in actions.items() if action == "runs"] == ["report"]
    assert not set(LATER) & set(actions) and "without train, evaluate, export" in done.stderr
    wrong, worst, mistakes, following, going_on, page = done.stdout.splitlines()
    assert re.fullmatch(
        r"About [\d.]+ % of the \d+ labels look wrong \(95 % interval: [\d.]+ % to [\d.]+ %\)\.",
        wrong,
    )
    assert worst.startswith("Worst classes: ") and mistakes.startswith("Most frequent mistakes: ")
    assert following.startswith("Next: Judge the ") and following.endswith(
        f"urnet review --workdir {early} --at queue/doubtful"
    )
    assert "with `run`" in going_on and page == f"Page: {early}/report/index.html"
    text = (early / "report" / "index.html").read_text(encoding="utf-8")
    assert "Not here yet:</b> the trained network, whether it helped, the files to use." in text

    again = urnet_here("noise", *flags)
    assert again.stdout == done.stdout and set(what_was_done(again.stderr).values()) == {"complete"}
    planned = urnet_here("run", *flags, "--dry_run")
    plan = dict(re.findall(r"^(\w+) +(skip|run|resume)\b", planned.stdout, re.M))
    assert plan == dict.fromkeys(NAMES, "skip") | dict.fromkeys((*LATER, "report"), "run")


def test_a_dry_run_plans_no_network(early, drawn_crawl, small_run, urnet_here):
    shutil.rmtree(early / "reweight")
    done = urnet_here("noise", "--data", drawn_crawl, "--workdir", early, *small_run, "--dry_run")
    plan = dict(re.findall(r"^(\w+) +(skip|run|resume)\b", done.stdout, re.M))
    assert plan == dict.fromkeys(NAMES[:5], "skip") | {"reweight": "run", "report": "run"}
    assert not (early / "report").exists()


def test_the_settings_of_a_work_directory_can_be_given_back(early, urnet_here):
    """What the page offers to copy: the configuration of the run itself."""
    done = urnet_here("noise", "--config", early / "config.yaml", "--workdir", early, "--dry_run")
    plan = dict(re.findall(r"^(\w+) +(skip|run|resume)\b", done.stdout, re.M))
    assert set(plan.values()) == {"skip", "run"} and [n for n, a in plan.items() if a == "run"] == ["report"]


def test_why_needs_no_final_network(early, urnet_here):
    done = urnet_here("why", "0", "1", "nowhere.jpg", "--workdir", early, "--format", "jsonl")
    assert done.returncode == 2 and "No image of this run is called 'nowhere.jpg'" in done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (
        first["instance_id"] == 0 and second["instance_id"] == 1 and first["sentence"].startswith("counted")
    )
    assert len(first["look_alikes"]) == 3 and first["look_alikes"][0]["file"].endswith(".jpg")
    done = urnet_here("why", "0", "1", "--workdir", early)
    assert done.returncode == 0 and done.stdout.count("  It counted") == 2
    (told,) = json.loads(urnet_here("why", "0", "--workdir", early, "--format", "json").stdout)
    assert told == first
