"""Column names, dtypes and status codes of the tables that the stages exchange.

Glossary: an *instance* is one image with one given *label*; N instances, C classes, D feature
size, K entries of a sparse target. Instance ids number the usable images of all splits: training
images first, sorted by (label, source, rank), so that class j is one slice; then validation, then
test images. `instance_id` equals the row number of `instances.parquet` and the record number in
the image store.
"""

from collections.abc import Mapping
from typing import Literal

from urnet_tf.reweighting.factors import FACTORS

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)  # of what is listed
# What people have judged and is not trained on: a random sample of the crawl, with their labels, and images
# that show none of the classes, without a label.
JUDGED = "judged"
ALL_SPLITS = (*SPLITS, JUDGED)
UNLABELED = -1
# Whose labels held images have: their own list's, or the crawl's, from which they were drawn; or JUDGED.
GIVEN, DRAWN = "given", "drawn"

# What a network sees of an image: the central square of this part of the short side; None = the whole image,
# stretched to a square; PADDED = the whole image in the middle of a gray square.
PADDED: Literal["padded"] = "padded"
CropFraction = float | Literal["padded"] | None

# What a list of images may tell of each.
LIST_COLUMNS = ("path", "label", "source", "rank", "query", "title", "description", "tags", "split")
LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".pq")

# instances.parquet (and, without instance_id, candidates.parquet). Strings are never null: "" is
# "not given". `rank` is 1-based inside (label, source, query), 0 = none; `label` -1 only outside of training.
INSTANCE_COLUMNS = {
    "instance_id": "int64",
    "split": "string",
    "label": "int32",
    "source": "string",
    "rank": "int32",
    "query": "string",
    "title": "string",
    "description": "string",
    "tags": "string",
    "path": "string",  # as listed, relative to the image root, "/" separated
    "content_hash": "string",  # blake2b-128 of the file, hexadecimal
    "picture": "string",  # equal for files that show the same picture: a content hash of one of them
    "width_px": "int32",  # as the file's header says, before EXIF rotation
    "height_px": "int32",
    "judged": "string",  # a verdict, RIGHT or WRONG_CLASS where `label` is what people said; "" = nobody did
}

# quarantine.parquet: a row that is not used, and why. `label` -1 where it is not known.
QUARANTINE_COLUMNS = {
    "path": "string",
    "split": "string",
    "label": "int32",
    "source": "string",
    "rank": "int32",
    "status": "string",  # one of STATUS
    "reason": "string",  # a sentence for a person
}

# duplicates.parquet: every file whose bytes occur more than once, and behind these every file of a picture
# that several different files show. `kind` is the gravest finding that holds for its group: DUPLICATE_KINDS,
# gravest first, where a group is the files of equal content_hash, or of equal picture for NEAR_KINDS.
DUPLICATE_COLUMNS = {
    "content_hash": "string",
    "picture": "string",  # as in instances.parquet
    "kind": "string",
    "split": "string",
    "label": "int32",
    "path": "string",
}
EQUAL_KINDS = ("train_and_evaluation", "several_labels", "same_label")
NEAR = "near_"  # what the kinds of near copies begin with
NEAR_KINDS = tuple(NEAR + kind for kind in EQUAL_KINDS)
DUPLICATE_KINDS = EQUAL_KINDS + NEAR_KINDS

STATUS = {
    "bad_row": "the row of the list cannot be read",
    "repeated_row": "the same file is listed before with the same label",
    "no_class": "the file lies in a folder that is taken for no class",
    "excluded_class": "its class is left out by ingest.classes or ingest.exclude",
    "small_class": "its class has fewer usable training images than ingest.min_class_images",
    "bad_name": "the file name is not valid UTF-8 or holds a null byte",
    "missing": "there is no such file",
    "not_a_file": "a directory or device, not a file",
    "symlink_loop": "the symbolic link leads to itself",
    "unreadable": "the file cannot be read",
    "empty": "the file has no bytes",
    "too_many_bytes": "the file is larger than ingest.max_bytes",
    "not_an_image": "the bytes are not of a known image format",
    "unsupported": "an image format or variant that is not read (animated WebP, ...)",
    "too_many_pixels": "the header promises more pixels than ingest.max_pixels",
    "too_small": "a side is shorter than ingest.min_side_px",
    "decode_error": "the image data is damaged",
    "duplicate_of_evaluation": "the same picture is a validation, test or judged image",
    "near_copy_of_evaluation": "a near copy, of other bytes, is a validation, test or judged image",
    "rank_cut": "ranked below ingest.max_rank of its source",
    "judged_none_of_these": "judged to show none of the classes",
}


# corrections.parquet, in the root of a work directory: what people said of labels, all texts.
CORRECTION_COLUMNS = {
    "content_hash": "string",  # as in instances.parquet; "" where only the path is known
    "path": "string",  # as listed when it was judged
    "old_label": "string",  # the name of the class that was given
    "verdict": "string",  # one of VERDICTS
    "new_label": "string",  # the name of a class; "" unless the verdict is WRONG_CLASS
    "queue": "string",  # how the image was chosen: RANDOM_QUEUE, CHANCE_QUEUE, or the name of another queue
    "who": "string",
    "when": "string",  # ISO 8601 in UTC with milliseconds: 2024-05-31T16:20:00.000Z
}
CORRECTIONS_FORMAT = "urnet corrections 1"
RIGHT, WRONG_CLASS, NONE_OF_THESE, UNSURE = "right", "wrong_class", "none_of_these", "unsure"
UNDONE = "undone"  # takes back what the same person said of the image before
VERDICTS = (RIGHT, WRONG_CLASS, NONE_OF_THESE, UNSURE, UNDONE)
REVIEW_PORT = 8502  # of `urnet review`, where it is free
REVIEW_ADDRESS = f"http://127.0.0.1:{REVIEW_PORT}/"
CHANCE_QUEUE = "valuable_random"  # those of the most valuable images that are shown by chance
RANDOM_QUEUE = "random"  # a random sample, from which shares and accuracies can be estimated

# judged.parquet of ingest: a row for each judged row of the crawl, and what became of it.
OBEYED_COLUMNS = {
    "content_hash": "string",
    "path": "string",
    "split": "string",  # as listed
    "given_label": "string",  # the name of the class, as listed
    "label": "string",  # as judged; "" = none of the classes
    "verdict": "string",
    "queue": "string",
    "who": "string",
    "when": "string",
    "in_random_sample": "bool",
    "fate": "string",  # one of OBEYED_FATES
}
CONFIRMED, REPLACED, TESTED = "confirmed", "replaced", "test_list"  # TESTED: with its judged label
OUTSIDE, LEFT, REPEATED = "outside", "left", "repeated"
OBEYED_FATES = {
    CONFIRMED: "the label was right",
    REPLACED: "the label was replaced",
    TESTED: "an image of the random sample, out of training, with the judged label",
    OUTSIDE: "an example of none of the classes, out of training",
    LEFT: "a copy of such an example, left out",
    REPEATED: "listed once more under the judged label, left out",
}


# weights.parquet: one row per training instance, in instance_id order; a column a factor, of ones where it is
# switched off (see `reweighting.factors`). The file's metadata name its format. A later version of it keeps
# these names and dtypes and may have more columns; where one changes its meaning, the number goes up.
WEIGHTS_FORMAT = "urnet weights 2"
WEIGHT_COLUMNS = {
    "instance_id": "int64",
    "label": "int32",
    "class_name": "string",  # of `label`
    "path": "string",  # as in instances.parquet
    "content_hash": "string",
    "split": "string",  # TRAIN; so that the rows can stand beside those of other tables
    "group": "string",  # equal for copies of one picture, which belong on one side of any further split
    "judged": "string",  # as in instances.parquet
    "cluster": "int32",  # k-means group inside the class, -1 when switched off
    **{factor.name: "float32" for factor in FACTORS},
    # P(label right) by all evidence that was used; too high where models were trained on these labels (paper)
    "right_prob": "float32",
    "predicted_label": "int32",  # what the author named in PREDICTED_BY predicts
    "predicted_class": "string",  # its name
    # What Keras receives. repaired: 0 and more, mean 1. literal: any finite number; below 0 an image counts
    # against its label, and the mean is 1 with reweight.combine.unit_mean only.
    "sample_weight": "float32",
}

WEIGHT_TEXTS = tuple(name for name, dtype in WEIGHT_COLUMNS.items() if dtype == "string")

# Who predicts `predicted_label`: the metadata `predicted_by` of the stage reweight.
BASELINE = "baseline"  # the likeliest class, as the baseline says it
BALANCED_BASELINE = "balanced_baseline"  # the same if all classes were equally frequent
SECOND_ROUND = "second_round"  # heads of the folds that were trained again with weights
PREDICTED_BY = {  # in words
    BASELINE: "the baseline",
    BALANCED_BASELINE: "the baseline balanced by class size",
    SECOND_ROUND: "the weighted heads of the second round",
}


def tell_splits(counts: Mapping[str, int]) -> str:
    """Like "800 train, 100 val, 0 test", of metadata with keys like train_images."""
    known = {split: counts[f"{split}_images"] for split in ALL_SPLITS if f"{split}_images" in counts}
    return ", ".join(f"{count} {split}" for split, count in known.items())
