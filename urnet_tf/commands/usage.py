"""What `urnet --help` says before the flags."""

USAGE = """\
urnet {version}: train image classifiers from noisy web images, and see why each image counted

  urnet run    --data CRAWL --workdir DIR [--config FILE] [--set section.key=value ...]
  urnet run    ... --dry_run            what would run, how long, how much disk and memory
  urnet run    ... --from STAGE         run again from this stage on
  urnet run    ... --executor ray [--address HOST:PORT]    on the nodes of a Ray cluster
  urnet noise  --data CRAWL --workdir DIR ...    only what is wrong: a report before anything is trained; the
                                        flags of run, which then goes on from there
  urnet run    ... --rescan             look at the contents of all images, too: did any change?
  urnet STAGE  --workdir DIR ...        one stage: {stages}
  urnet verify --workdir DIR            whether all results are still as they were written
  urnet why    IMAGE ... --workdir DIR [--format text|json|jsonl]
                                        why images counted as much as they did: paths, addresses or ids
  urnet review --workdir DIR [--port N] [--at PLACE]
                                        judge labels in the browser; the next run obeys
  urnet review --workdir DIR [--import FILE ...] [--export FILE.csv]
                                        judgements of others in, all of them out
  urnet clean  --workdir DIR --out NEW [--as LAYOUT] [--threshold P] [--deduplicate] [--copy]
                                        the crawl without what is wrong, for any tool
  urnet predict IMAGE ... | DIR --model MODEL [--top_k N] [--format table|csv|jsonl] [--out FILE]
                                        the best classes of images; 1 where one could not be read
  urnet serve  --model MODEL [--port N] [--host ADDRESS] [--engine ENGINE] [--dry_run] [-- OPTIONS]
                                        starts TF Serving, its Docker image or a server of our own
  urnet promote --workdir DIR [--out saved_models] [--pin] [--label NAME] [--dry_run]
                                        put a run's export where servers look
  urnet rollback --model saved_models/NAME [--dry_run]    let servers go back to the version before
  urnet ensemble RUN RUN ... [--workdir runs/ensemble] [--dry_run] [--set export.name=NAME ...]
                                        joins finished runs (their work directories) with the same classes
                                        and held images: accuracy, submission file, one exported model
  urnet draw   --out DIR                draw a small noisy crawl to try things on
  urnet completion bash|zsh             a script for the shell that completes commands, flags and images

DIR and CRAWL may lie in a bucket: s3://bucket/run, gs://..., abfs://...; see --cache.
CRAWL is a folder with one sub-folder a class, a CSV or Parquet list (path,label,...), or a
WebVision tree. MODEL is an export (of any format), a directory with one, or a run's --workdir.
A second run skips what is complete; a killed run goes on where it was.

Flags:
{flags}
Exit status: 0 done or nothing to do, 1 failed, 2 bad usage, 130 stopped by Ctrl-C, 143 by SIGTERM."""
