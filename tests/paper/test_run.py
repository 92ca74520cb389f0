"""A real run of `preset: paper` on a tiny crawl, compared with `equations.py` stage by stage.

The network is one convolution, the text vectors a file of random numbers. So that they matter on a crawl of
this size, the network of Fig. 5 learns from the best 5 and not 30 results, and is narrow.
"""

import ast
import json
import pathlib

import numpy as np
import pytest
from paper import equations

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.flow import plan, runner
from urnet_tf.stages import urnet_fit
from urnet_tf.stages.stage import StageContext

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "configs" / "paper_small.yaml"
TOP_RANK, WIDTH, PASSES, SEED = 5, 12, 4, 11
STAGES = ("ingest", "pack", "features", "baseline", "extract", "reweight", "train")


def tiny_backbone(name, image_size_px, weights=None, *, seed=0, synchronized=False, **_):
    """In place of the ResNeXt: 24 features of one convolution."""
    import keras

    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = keras.layers.Rescaling(1 / 128, -1.0, name="rescale")(image)
    initializer = keras.initializers.HeNormal(seed=seed)
    x = keras.layers.Conv2D(24, 8, strides=4, kernel_initializer=initializer, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(keras.layers.ReLU(name="relu")(x))
    return keras.Model(image, x, name="tiny")


class Run:
    """What the stages left on disk, read without the product's own readers of results where that is easy."""

    def __init__(self, workdir, config, text_vectors):
        self.workdir, self.config, self.text_vectors = workdir, config, text_vectors
        self.classes = json.loads((workdir.path("pack") / "classes.json").read_text())
        table = store.read_table(workdir.path("pack") / "instances.parquet").to_pylist()
        self.rows = [row for row in table if row["split"] == "train"]
        self.labels = np.array([row["label"] for row in self.rows])
        self.count, self.num_classes = len(self.rows), len(self.classes)
        weights = store.read_table(workdir.path("train") / "weights.parquet")
        self.weights = {name: weights.column(name).to_numpy() for name in weights.column_names}
        self.features = np.load(workdir.path("extract") / "features.npy").astype(float)

    def array(self, stage, name):
        return np.load(self.workdir.path(stage) / f"{name}.npy")

    def model(self, stage, name):
        from urnet_tf.training.saving import load_model

        return load_model(self.workdir.path(stage) / name)

    def dense(self, model, name):
        return [values.astype(float) for values in model.get_layer(name).get_weights()]

    def context(self, config=None, out="unused"):
        return StageContext(config or self.config, self.workdir, self.workdir.root / out)

    def bags(self, step):
        """The ids of the bags of a step [B, N_b]."""
        weight = self.weights["sample_weight"]
        data = urnet_fit.bag_batches(self.context(), self.labels, weight, augmented=True)
        return data.sampler.batch(step)[0], data.steps_per_epoch


@pytest.fixture(scope="module")
def paper(drawn_crawl, tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    info = drawn_crawl / "info"
    lines = (info / "synsets.txt").read_text().splitlines()
    texts = [line.partition(" ")[2] for line in lines]
    for name in sorted(info.glob("queries_*.txt")):
        texts += [line.partition(" ")[2].replace("+", " ") for line in name.read_text().splitlines()]
    words = sorted({word for text in texts for word in equations.words_of(text)})
    vectors = np.random.default_rng(5).standard_normal((len(words), 16)).round(3)
    rows = [f"{word} {' '.join(map(str, row))}" for word, row in zip(words, vectors.tolist(), strict=True)]
    (root / "words.vec").write_text(f"{len(rows)} 16\n" + "\n".join(rows) + "\n", encoding="utf-8")
    settings = (
        f"ingest.path={drawn_crawl}", f"seed={SEED}", "model.image_size_px=16", "pack.short_side_px=16",
        "augment.policy=none", "baseline.fit.epochs=6", "baseline.fit.learning_rate=0.5",
        "train.fit.learning_rate=1.0", "train.fit.epochs=2", "train.members=1", "model.attention_dim=8",
        "ingest.max_rank={flickr: 8}", f"reweight.confidence.text_vectors={root / 'words.vec'}",
        f"reweight.confidence.top_rank={TOP_RANK}", f"reweight.confidence.embedding_dim={WIDTH}",
        f"reweight.confidence.epochs={PASSES}",
    )  # fmt: skip
    config = load_config(str(CONFIG), settings)
    workdir = store.Workdir(root / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urnet_tf.models.backbone.build_backbone", tiny_backbone)
        steps = [step for step in plan.make_plan(config, workdir) if step.stage.name in STAGES]
        runner.run(config, workdir, steps)
        yield Run(workdir, config, dict(zip(words, vectors, strict=True)))


def test_the_equations_share_no_code_with_the_product():
    tree = ast.parse(pathlib.Path(equations.__file__).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [alias.name for node in imported for alias in node.names] == ["numpy"]


def test_the_crawl_is_one_on_which_the_settings_matter(paper):
    assert paper.config.preset == "paper" and len(set(np.bincount(paper.labels))) > 3
    assert {row["source"] for row in paper.rows} == {"google", "flickr"}
    google = [row["label"] for row in paper.rows if row["source"] == "google"]
    assert np.bincount(google).max() > TOP_RANK
    flickr = [row["label"] for row in paper.rows if row["source"] == "flickr"]
    assert np.bincount(flickr).max() <= 8
    queries = {(row["label"], row["query"]) for row in paper.rows if row["source"] == "google"}
    assert len(queries) > paper.num_classes, "a class with several queries"


# ------------------------------------------------------------------------------------ the offline steps


def test_predictions_are_those_of_one_baseline_on_what_it_was_trained_on(paper):
    assert not paper.array("baseline", "fold").any()
    assert [p.name for p in paper.workdir.path("baseline").glob("model_*")] == ["model_full.keras"]
    kernel, bias = paper.dense(paper.model("baseline", "model_full.keras"), "instance_logits")
    probs = equations.softmax(paper.features @ kernel + bias)
    best = np.argsort(-probs, axis=1, kind="stable")[:, :5]
    found = np.take_along_axis(probs, paper.array("extract", "topk_ids"), axis=1)
    np.testing.assert_allclose(found, np.take_along_axis(probs, best, axis=1), atol=1e-5)
    np.testing.assert_allclose(paper.array("extract", "topk_probs"), found, atol=1e-5)
    given = probs[np.arange(paper.count), paper.labels]
    np.testing.assert_allclose(paper.array("extract", "given_prob"), given, atol=1e-5)
    np.testing.assert_array_equal(paper.weights["predicted_label"], paper.array("extract", "topk_ids")[:, 0])
    assert 0.05 < np.mean(paper.weights["predicted_label"] != paper.labels) < 0.95


def test_class_weights_are_those_of_equation_4(paper):
    expected = equations.class_weights(paper.labels, paper.num_classes)[paper.labels]
    np.testing.assert_allclose(paper.weights["class_weight"], expected, rtol=1e-6)


def test_groups_are_those_of_k_means_and_weigh_as_in_equation_5(paper):
    import sklearn.cluster

    matrix = equations.confusion_matrix(paper.labels, paper.weights["predicted_label"], paper.num_classes)
    for label in range(paper.num_classes):
        rows = equations.rows_of_classes(paper.labels, [label, *equations.confusing_classes(matrix, label)])
        points, own = paper.features[rows].astype(np.float32), paper.labels[rows] == label
        # The starts are drawn: the one thing that is taken as it is.
        seed = int(np.random.SeedSequence([SEED, label]).generate_state(1)[0])
        groups = sklearn.cluster.KMeans(equations.GROUPS, n_init=3, random_state=seed).fit_predict(points)
        assert equations.is_fixed_point_of_k_means(points, groups)
        np.testing.assert_array_equal(paper.weights["cluster"][rows[own]], groups[own])
        expected = equations.cluster_weights(groups, own.sum())
        np.testing.assert_allclose(paper.weights["cluster_weight"][rows[own]], expected, rtol=1e-6)


def test_confidence_is_that_of_the_network_of_figure_5(paper):
    entries = [entry["words"] + entry["queries"] for entry in paper.classes]
    texts = [equations.class_text_vector(entry, paper.text_vectors) for entry in entries]
    rows = [tuple(row[name] for name in ("label", "source", "query", "rank")) for row in paper.rows]
    learned_from = equations.best_results(rows, TOP_RANK)
    metadata = paper.workdir.marker("reweight")["metadata"]
    assert metadata["text_training_images"] == len(learned_from)
    assert not [note for note in metadata["notes"] if "fastText" in note]
    expected = equations.instance_confidence(
        paper.features, paper.labels, np.array(texts), learned_from, width=WIDTH, epochs=PASSES, seed=SEED
    )
    np.testing.assert_allclose(paper.weights["confidence"], expected, atol=2e-4)
    assert (expected < 0).any() and expected.std() > 0.05


def test_the_weight_is_the_product_of_equation_9(paper):
    for name in ("self_confidence", "page_text", "rank_prior"):
        assert (paper.weights[name] == 1).all()
    factors = [paper.weights[name].astype(float) for name in ("class_weight", "cluster_weight", "confidence")]
    np.testing.assert_allclose(paper.weights["sample_weight"], np.prod(factors, axis=0), rtol=1e-5)


def dense_targets(run):
    ids, probs = run.array("reweight", "target_ids"), run.array("reweight", "target_probs")
    targets = np.zeros((run.count, run.num_classes))
    for column in range(ids.shape[1]):
        np.add.at(targets, (np.arange(run.count), ids[:, column]), probs[:, column])
    return targets


def test_soft_targets_are_those_of_equation_10(paper):
    predicted = paper.weights["predicted_label"]
    expected = equations.soft_targets(paper.labels, predicted, paper.num_classes)
    np.testing.assert_allclose(dense_targets(paper), expected, atol=1e-6)


# ------------------------------------------------------------------------------------------- training


def test_bags_are_of_one_class_and_hold_every_image(paper):
    ids, steps = paper.bags(0)
    first = np.concatenate([paper.bags(step)[0] for step in range(steps)])
    assert first.shape[1] == equations.BAG
    assert (paper.labels[first] == paper.labels[first[:, :1]]).all()
    assert set(first.ravel()) == set(range(paper.count))


def test_the_first_loss_starts_from_the_baseline_and_is_that_of_the_equations(paper):
    """One pass with a learning rate of 0: the mean of its steps is the loss of the start."""
    config = load_config(str(CONFIG), [*settings_of(paper.config), "train.fit.learning_rate=0"])
    out = paper.workdir.root / "standing"
    out.mkdir()
    context = StageContext(config, paper.workdir, out)
    urnet_fit.fit_urnet(context, paper.labels, paper.weights["sample_weight"], out / "tensorboard")
    history = json.loads((out / "history.json").read_text())[0]

    kernel, bias = paper.dense(paper.model("baseline", "model_full.keras"), "instance_logits")
    logits, targets = paper.features @ kernel + bias, dense_targets(paper)
    _, steps = paper.bags(0)
    losses = []
    for step in range(steps):
        ids, _ = paper.bags(step)
        bag_logits = np.zeros((len(ids), paper.num_classes))  # FC4 begins at zero
        weights = paper.weights["sample_weight"][ids]
        losses.append(
            equations.batch_loss(logits[ids], targets[ids], weights, bag_logits, paper.labels[ids[:, 0]])
        )
    assert history["loss"] == pytest.approx(np.mean(losses), rel=2e-4)
    assert history["bag_loss"] == pytest.approx(np.log(paper.num_classes), rel=1e-5)
    assert history["instance_loss"] == pytest.approx(history["loss"] - history["bag_loss"], abs=1e-4)


def settings_of(config):
    """The overrides that make a configuration of `CONFIG` again."""
    from urnet_tf.config import to_dict

    def flat(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict) and f"{prefix}{key}" != "ingest.max_rank":
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}={json.dumps(value)}"

    return list(flat(to_dict(config)))


@pytest.fixture(scope="module")
def trained(paper):
    """The trained URNet, its features of all images float64 [N, D], and the bags of its last pass."""
    from urnet_tf.models.classifier import backbone_of

    model = paper.model("train", "urnet.keras")
    data = urnet_fit.bag_batches(
        paper.context(), paper.labels, np.ones(paper.count, np.float32), augmented=False
    )
    steps = range(data.steps_per_epoch)
    bags = np.concatenate([data.sampler.batch(step)[0] for step in steps])
    images = np.concatenate([x for x, _, _ in data.dataset(0, len(steps)).as_numpy_iterator()])
    features = backbone_of(model).predict(images.reshape(-1, *images.shape[2:]), verbose=0)
    return model, features.reshape(*bags.shape, -1).astype(float), bags, images


def test_the_bag_branch_is_that_of_figure_4(paper, trained):
    model, features, _, images = trained
    hidden = paper.dense(model, "attention_hidden")
    attention, logits = equations.bag_branch(
        features, *hidden, *paper.dense(model, "attention_score"), *paper.dense(model, "bag_logits")
    )
    found = model.predict(images, verbose=0)
    np.testing.assert_allclose(found["bag"], logits, atol=1e-4)
    assert np.ptp(attention, axis=1).max() > 0.01 and np.abs(logits).max() > 0.05
    kernel, bias = paper.dense(model, "instance_logits")
    np.testing.assert_allclose(found["instance"], features @ kernel + bias, atol=1e-4)


def test_saliencies_are_the_mean_attention_of_an_image_in_its_bags(paper, trained):
    model, features, bags, _ = trained
    parameters = paper.dense(model, "attention_hidden") + paper.dense(model, "attention_score")
    attention, _ = equations.bag_branch(features, *parameters, *paper.dense(model, "bag_logits"))
    expected = equations.saliency(attention, bags, paper.count)
    np.testing.assert_allclose(paper.weights["saliency"], expected, rtol=1e-4)
    np.testing.assert_allclose(paper.array("train", "saliency"), expected, rtol=1e-4)
    assert expected.std() > 1e-3
