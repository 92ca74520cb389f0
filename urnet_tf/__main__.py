"""The command line: `urnet COMMAND [FLAGS]`, also `python -m urnet_tf`.

Flags say where and which; the configuration says what. Exit status: 0 done or nothing to do,
1 failed, 2 bad usage, 130 and 143 stopped by a signal. The heavy libraries are imported by the stages,
not here.
"""

if __name__ == "__main__":  # before the imports below, so that signals are taken over at once
    from urnet_tf.console import start

    start()

import functools
import io
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags, logging

from urnet_tf import __version__
from urnet_tf.commands.failures import explain_environment
from urnet_tf.commands.usage import USAGE
from urnet_tf.console import output_was_closed, promise, set_up_logging, was_stopped
from urnet_tf.errors import RunError, UsageError
from urnet_tf.text_rules import refuse_address

if TYPE_CHECKING:
    from urnet_tf.config import Config
    from urnet_tf.flow.plan import Step
    from urnet_tf.store import Workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/urnet", "directory that holds all results of a run, or s3://..."
)
_CONFIG = flags.DEFINE_string("config", None, "YAML file, or the name of a packaged one, like quickstart")
_CACHE = flags.DEFINE_string(
    "cache", None, "holds what comes from buckets (default $URNET_CACHE, or ~/.cache/urnet_tf)"
)
_DATA = flags.DEFINE_string("data", None, "the crawl; short for --set ingest.path=...")
_FEATURES = flags.DEFINE_string(
    "features", None, "FILE.npy: features of your own; short for --set model.features=..."
)
_SCORES = flags.DEFINE_string(
    "scores", None, "FILE: someone else's scores; short for --set reweight.other_score.path=..."
)
_SET = flags.DEFINE_multi_string("set", [], "section.key=value, may be repeated")
_FROM = flags.DEFINE_string("from", None, "run this stage and what needs it again")
_EXECUTOR = flags.DEFINE_enum(
    "executor", None, ["local", "processes", "ray"], "does offline work; short for --set runtime.executor=..."
)
_ADDRESS = flags.DEFINE_string("address", None, "of a Ray cluster; short for --set runtime.address=...")
_ALLOW_DRIFT = flags.DEFINE_bool("allow_drift", False, "export: keep files that differ from Keras too much")
_RESCAN = flags.DEFINE_bool("rescan", False, "run: look for changes in the contents of all images")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the plan and stop")
_OUT = flags.DEFINE_string(
    "out", None, "draw, clean: the directory to make; predict: the file to write; promote: where to"
)
_IMAGES = flags.DEFINE_integer("images", 1600, "draw: training images", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", 16, "draw: classes", lower_bound=2)
_SIZE = flags.DEFINE_integer("size_px", 128, "draw: typical side of an image", lower_bound=32)
_LAYOUT = flags.DEFINE_enum("layout", "webvision", ["webvision", "folder", "list"], "draw: layout on disk")
_SEED = flags.DEFINE_integer("seed", 0, "draw: seed", lower_bound=0)
_MODEL = flags.DEFINE_string("model", None, "predict, serve, rollback: the model")
_TOP_K = flags.DEFINE_integer("top_k", None, "predict: classes an image (default 5)", lower_bound=1)
_FORMAT = flags.DEFINE_enum(
    "format", None, ["table", "csv", "jsonl", "text", "json"],
    "of the answers; predict: table (on a terminal), csv or jsonl; why: text, json or jsonl",
)  # fmt: skip
_AS = flags.DEFINE_enum(
    "as", "folder", ["folder", "list", "imagefolder", "webdataset", "cleanlab", "fiftyone"], "clean: as what"
)
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    0.5,
    "clean: drop what is right with less probability; 0 = only what people judged",
    0,
    1,
)
_DEDUPLICATE = flags.DEFINE_bool("deduplicate", False, "clean: keep one image of each picture")
_COPY = flags.DEFINE_bool("copy", False, "clean: copy images instead of linking to them")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address to listen on")
_AT = flags.DEFINE_string(
    "at", None, "review: what to open: queue/NAME, class/NAME, group/NAME, groups, or an image (its path)"
)
_EXPORT = flags.DEFINE_string("export", None, "review: FILE.csv, which gets all judgements")
_IMPORT = flags.DEFINE_multi_string("import", [], "review: FILE.csv or .parquet, whose judgements are added")
_PORT = flags.DEFINE_integer("port", 8501, "serve: HTTP port; review: 8502", lower_bound=2, upper_bound=65535)
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "tf_serving", "docker", "own"], "serve: which server; auto = the first here"
)
_PIN = flags.DEFINE_bool("pin", False, "promote: serve this version until told otherwise")
_LABEL = flags.DEFINE_string("label", None, "promote: a label for this version, like canary")
_ALL_FLAGS = (
    _WORKDIR, _CACHE, _CONFIG, _DATA, _FEATURES, _SCORES, _SET, _FROM, _EXECUTOR, _ADDRESS, _RESCAN,
    _DRY_RUN, _ALLOW_DRIFT, _OUT, _IMAGES, _CLASSES, _SIZE, _LAYOUT, _SEED, _MODEL, _TOP_K, _FORMAT,
    _AS, _THRESHOLD, _DEDUPLICATE, _COPY, _AT, _EXPORT, _IMPORT, _HOST, _PORT, _ENGINE, _PIN, _LABEL,
)  # fmt: skip


_SHORT_FORMS = (
    (_DATA, "ingest.path"), (_FEATURES, "model.features"), (_SCORES, "reweight.other_score.path"),
    (_EXECUTOR, "runtime.executor"), (_ADDRESS, "runtime.address"),
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Runs one command and returns the exit status."""
    set_up_logging()
    command, arguments = (argv[1] if len(argv) > 1 else None), argv[2:]
    if _CACHE.value is not None:
        os.environ["URNET_CACHE"] = _CACHE.value  # the processes of the stages read it, too
    try:
        _refuse_addresses(command)
        return _dispatch(command, arguments)
    except Exception as error:
        if was_stopped():  # its echo, from a library or a worker process
            raise KeyboardInterrupt from None
        if isinstance(error, BrokenPipeError) and output_was_closed():
            raise  # `| head` has seen enough
        ours = isinstance(error, (UsageError, RunError))
        sentence = str(error) if ours else explain_environment(error, _WORKDIR.value)
        if sentence is None:
            raise
        logging.debug("%s", sentence, exc_info=True)
        print(f"urnet: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _refuse_addresses(command: str | None) -> None:
    """Buckets are for runs and crawls: no other address may become a local folder of that name."""
    more = {"ensemble": [_WORKDIR], "rollback": [_MODEL]}.get(command or "", [])
    for flag in (_OUT, _EXPORT, _CONFIG, _FEATURES, _SCORES, _CACHE, *more):
        refuse_address(flag.value or "", f"--{flag.name}", "Give a path, and copy to or from the bucket.")


def _dispatch(command: str | None, arguments: list[str]) -> int:
    from urnet_tf import stages

    alone: dict[str, Callable[[], int]] = {
        "draw": _draw, "verify": _verify, "review": _review, "clean": _clean,
        "promote": functools.partial(_promote, "promote"),
        "rollback": functools.partial(_promote, "rollback"),
    }  # fmt: skip
    alone |= {name: functools.partial(_run, name) for name in ("run", "noise", *stages.NAMES)}
    with_arguments = {"why": _why, "ensemble": _ensemble, "predict": _predict, "serve": _serve}
    with_arguments["completion"] = functools.partial(_complete, [*with_arguments, *alone])
    if command is not None and command in alone:
        _reject_extra(command, arguments)
        return alone[command]()
    if command is not None and command in with_arguments:
        return with_arguments[command](arguments)
    received = "none" if command is None else repr(command)
    known = ", ".join([*with_arguments, *alone])
    raise UsageError(f"Expected a command ({known}); received {received}. See `urnet --help`.")


def _run(command: str) -> int:
    from urnet_tf import config as config_lib
    from urnet_tf.commands import closing, noise
    from urnet_tf.flow import bucket_runs, plan_text, runner, together
    from urnet_tf.store import Workdir

    config = config_lib.load_config(_CONFIG.value, _overrides())
    workdir = Workdir(_local(exists=False), hashes=config.runtime.verify_hashes)
    bucket_runs.refuse_machines(config, workdir)
    for sentence in plan_text.format_ignored(config):
        logging.warning("%s", sentence)
    promise("the same command goes on from here")
    if _DRY_RUN.value:
        print(plan_text.format_plan(config, _plan(command, config, workdir), workdir))
        return 0
    machines = together.open_machines(config, workdir)
    if machines is not None and not machines.is_chief:
        together.follow(config, workdir, machines)
        return 0
    with together.Company(machines) as company:
        if command not in ("run", "noise"):
            runner.run_single(command, config, workdir, company)
        else:
            runner.run(config, workdir, _plan(command, config, workdir), company)
    if command == "noise":
        print("\n".join(noise.closing_lines(workdir)))
        return 0
    if command != "run":
        print(f"Done: {workdir.path(command)}")
        return closing.report_refusals(workdir) if command == "export" else 0
    status = closing.report_refusals(workdir)
    print(closing.closing_lines(workdir))
    return status


def _local(*, exists: bool = True, files: tuple[str, ...] = (), place: str | None = None) -> str:
    """The folder of --workdir, or of another place; the cache of one that lies in a bucket."""
    from urnet_tf.flow import bucket_runs

    return bucket_runs.local_folder(place or _WORKDIR.value, exists=exists, files=files)


def _overrides() -> list[str]:
    """Settings of the command line, those with flags of their own included."""
    short = [(flag.value, key) for flag, key in _SHORT_FORMS if flag.value is not None]
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for value, key in short]
    return [*_SET.value, *overrides, *(["export.allow_drift=true"] if _ALLOW_DRIFT.value else [])]


def _plan(command: str, config: "Config", workdir: "Workdir") -> "list[Step]":
    from urnet_tf.commands import noise
    from urnet_tf.flow import plan

    only = noise.stages_of_noise() if command == "noise" else None
    return plan.make_plan(config, workdir, _FROM.value, rescan=_RESCAN.value, only=only)


def _verify() -> int:
    from urnet_tf.flow import runner
    from urnet_tf.store import Workdir

    workdir = Workdir(_local())
    if not workdir.root.is_dir():
        raise UsageError(f"Expected a work directory at {workdir.root}; there is none.")
    lines, sound = runner.verify(workdir)
    print("\n".join(lines))
    if not sound:
        print("urnet: `urnet run` with the same settings makes what is damaged again.", file=sys.stderr)
    return 0 if sound else 1


def _why(arguments: list[str]) -> int:
    from urnet_tf.commands.why import explain_images
    from urnet_tf.flow import bucket_runs

    return explain_images(_local(files=bucket_runs.FOR_WHY), arguments, _FORMAT.value)


def _complete(commands: list[str], arguments: list[str]) -> int:
    from urnet_tf.commands import completion
    from urnet_tf.flow import bucket_runs

    what, *texts = arguments or [""]
    if what == "paths" and len(texts) <= 1:
        print("\n".join(completion.find_paths(bucket_runs.cached_folder(_WORKDIR.value), *texts or [""])))
        return 0
    if texts:
        raise UsageError(f"Did not expect {texts[0]!r} after `completion {what}`.")
    names = [holder.name for holder in _ALL_FLAGS]
    choices = {
        name: flags.FLAGS[name].parser.enum_values
        for name in names
        if isinstance(flags.FLAGS[name].parser, flags.EnumParser)
    }
    print(completion.format_script(what, [*commands, "completion"], names, choices), end="")
    return 0


def _predict(arguments: list[str]) -> int:
    from urnet_tf.flow import bucket_runs
    from urnet_tf.serving.predict import predict

    if _MODEL.value is None:
        raise UsageError(
            "Expected --model MODEL: an export, a directory with one, or a run's work directory."
        )
    # Labels may need letters that the terminal lacks; files and programs get UTF-8.
    encoding = None if sys.stdout.isatty() else "utf-8"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    if _FORMAT.value in ("text", "json"):
        raise UsageError(f"Expected --format table, csv or jsonl with `predict`; received {_FORMAT.value}.")
    model = _local(place=_MODEL.value, files=bucket_runs.FOR_MODELS)
    failed = predict(model, arguments, top_k=_TOP_K.value, answer_format=_FORMAT.value, out=_OUT.value)
    return 1 if failed else 0


def _serve(options: list[str]) -> int:
    from urnet_tf.flow import bucket_runs
    from urnet_tf.serving.server import serve

    if _MODEL.value is None:
        raise UsageError("Expected --model MODEL, an export with a SavedModel.")
    where = {"host": _HOST.value, "port": _PORT.value, "engine": _ENGINE.value}
    model = _local(place=_MODEL.value, files=bucket_runs.FOR_MODELS)
    serve(model, **where, options=options, dry_run=_DRY_RUN.value)
    return 0


def _review() -> int:
    from urnet_tf.flow import bucket_runs
    from urnet_tf.review import server

    if _EXPORT.value is not None or _IMPORT.value:
        folder = _local()
        for sentence in server.exchange(folder, _IMPORT.value, _EXPORT.value):
            print(sentence)
        bucket_runs.send_files(folder)
        return 0
    if _HOST.present:
        raise UsageError(
            "Did not expect --host with `review`, which is for browsers of this machine only; from another "
            "one forward its port: ssh -L 8502:127.0.0.1:8502 HOST."
        )
    promise("every judgement is on the disk, and `urnet run` with this --workdir obeys them")
    folder = _local(files=bucket_runs.FOR_REVIEW)
    try:
        server.serve(folder, port=_PORT.value if _PORT.present else None, at=_AT.value)
    finally:
        bucket_runs.send_files(folder)
    return 0


def _promote(command: str) -> int:
    from urnet_tf.commands import versions

    if command == "rollback":
        versions.roll_back(_MODEL.value, dry_run=_DRY_RUN.value)
    else:
        out = _OUT.value or "saved_models"
        versions.promote(_local(), out, pin=_PIN.value, label=_LABEL.value, dry_run=_DRY_RUN.value)
    return 0


def _ensemble(arguments: list[str]) -> int:
    from urnet_tf.commands.joining import join_runs

    out = _WORKDIR.value if _WORKDIR.present else "runs/ensemble"
    for flag in (_CONFIG, _DATA, _FEATURES, _SCORES, _FROM, _EXECUTOR, _ADDRESS):
        if flag.value is not None:
            raise UsageError(
                f"Did not expect --{flag.name} with `ensemble`; the runs keep what they were made with."
            )
    overrides = [*_SET.value, *(["export.allow_drift=true"] if _ALLOW_DRIFT.value else [])]
    promise("the same command goes on from here")
    return join_runs([_local(place=run) for run in arguments], out, overrides, dry_run=_DRY_RUN.value)


def _clean() -> int:
    from urnet_tf.flow.clean import clean

    if _OUT.value is None:
        raise UsageError("Expected --out NEW, the directory to make.")
    choices = {"threshold": _THRESHOLD.value, "deduplicate": _DEDUPLICATE.value, "copy": _COPY.value}
    print("\n".join(clean(_local(), _OUT.value, layout=_AS.value, **choices)))
    return 0


def _draw() -> int:
    from urnet_tf.drawn.crawl import draw_crawl

    if _OUT.value is None:
        raise UsageError("Expected --out DIR, the directory to make.")
    summary = draw_crawl(
        _OUT.value, images=_IMAGES.value, num_classes=_CLASSES.value, image_size_px=_SIZE.value,
        seed=_SEED.value, layout=_LAYOUT.value,
    )  # fmt: skip
    print(summary)
    return 0


def _reject_extra(command: str, arguments: list[str]) -> None:
    if arguments:
        raise UsageError(f"Did not expect {arguments[0]!r} after `{command}`; flags begin with --.")


def _usage() -> str:
    from urnet_tf.stages import NAMES

    lines = []
    for holder in _ALL_FLAGS:
        flag = flags.FLAGS[holder.name]
        default = "" if flag.default in (None, [], False) else f" (default {flag.default})"
        lines.append(f"  --{flag.name:<11} {flag.help}{default}")
    return USAGE.format(version=__version__, stages=" ".join(NAMES), flags="\n".join(lines))


def _parse(argv: list[str]) -> list[str]:
    if any(a in ("--help", "-h", "-help", "help") for a in argv[1:]):
        print(_usage())
        sys.exit(0)
    if "--version" in argv[1:]:
        print(f"urnet {__version__}")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"urnet: {error}. See `urnet --help`.", file=sys.stderr)
        sys.exit(2)


def console() -> None:
    """Entry point of the `urnet` console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its errors reach us as exceptions, too
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    app.run(main, flags_parser=_parse)
