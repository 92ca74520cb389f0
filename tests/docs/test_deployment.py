"""The files that start TF Serving, and runs on clusters, keep to schemas and to our commands."""

import copy
import importlib.util
import json
import pathlib
import shlex

import pytest
import yaml

from urnet_tf.config import load_config
from urnet_tf.export import tf_serving
from urnet_tf.store import machine

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "docs" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text(encoding="utf-8"))
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
KINDS = [manifest["kind"] for manifest in MANIFESTS]
TRAINING = list(yaml.safe_load_all((DEPLOY / "training.yaml").read_text(encoding="utf-8")))
RAY_JOB, CRAWL_CLAIM = yaml.safe_load_all((DEPLOY / "ray-job.yaml").read_text(encoding="utf-8"))
CLUSTER = RAY_JOB["spec"]["rayClusterSpec"]
RAY_GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]


def need(module, package):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the package {package} is not installed")


@pytest.fixture(scope="module")
def compose_faults():
    """The faults of a docker-compose file, by the schema of its specification."""
    need("check_jsonschema", "check-jsonschema")
    import check_jsonschema
    import jsonschema

    folder = pathlib.Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    return lambda document: [error.message for error in validator.iter_errors(document)]


def test_the_compose_file_keeps_to_its_schema(compose_faults):
    assert compose_faults(COMPOSE) == []
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["tf-serving"]["comand"] = []
    assert compose_faults(wrong)


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_the_manifest_keeps_to_the_schemas_of_kubernetes(version):
    need("kubernetes_validate", "kubernetes-validate")
    import kubernetes_validate

    for manifest in (*MANIFESTS, *TRAINING):
        kubernetes_validate.validate(manifest, version, strict=True)
    wrong = copy.deepcopy(MANIFESTS[0])
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def container():
    return MANIFESTS[KINDS.index("Deployment")]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_flags_and_image_are_those_of_the_docker_line(where, tmp_path):
    service = COMPOSE["services"]["tf-serving"]
    image, flags = (
        (service["image"], service["command"])
        if where == "compose"
        else (container()["image"], container()["args"])
    )
    assert image == tf_serving.IMAGE
    line = tf_serving.docker_command(tmp_path)
    assert set(line[line.index(image) + 1 :]) <= set(flags)


def test_what_belongs_together_has_one_name():
    service, deployment = (MANIFESTS[KINDS.index(kind)] for kind in ("Service", "Deployment"))
    claim = MANIFESTS[KINDS.index("PersistentVolumeClaim")]
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {m["name"] for m in container()["volumeMounts"]} == set(volumes)
    ports = {p["name"]: p["containerPort"] for p in container()["ports"]}
    assert ports == {"grpc": tf_serving.GRPC_PORT, "rest": tf_serving.REST_PORT}
    for port in service["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == tf_serving.METRICS_PATH


def test_compose_listens_on_this_machine_alone_and_cannot_change_models():
    service = COMPOSE["services"]["tf-serving"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (volume,) = service["volumes"]
    assert volume["read_only"] and volume["target"] == tf_serving.IN_CONTAINER


def test_the_training_job_names_its_own_pods(monkeypatch):
    job = next(manifest for manifest in TRAINING if manifest["kind"] == "Job")
    pods, template = job["spec"]["completions"], job["spec"]["template"]["spec"]
    service = next(manifest for manifest in TRAINING if manifest["kind"] == "Service")
    assert template["subdomain"] == service["metadata"]["name"] and pods == job["spec"]["parallelism"]
    (told,) = [one["value"] for one in template["containers"][0]["env"] if one["name"] == "TF_CONFIG"]
    config = json.loads(told.replace("$(INDEX)", "1"))  # as Kubernetes puts it in
    name, port = job["metadata"]["name"], template["containers"][0]["ports"][0]["containerPort"]
    assert config == {
        "cluster": {"worker": [f"{name}-{i}.{template['subdomain']}:{port}" for i in range(pods)]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert machine.count_machines() == pods


def test_the_training_job_runs_our_command():
    job = next(manifest for manifest in TRAINING if manifest["kind"] == "Job")
    program, command, *flags = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (program, command) == ("urnet", "run")
    settings = [value for flag, value in zip(flags[::2], flags[1::2], strict=True) if flag == "--set"]
    assert load_config(None, settings).runtime.strategy == "multi_worker"


# ----------------------------------------------------------------------------------- a run on a cluster


@pytest.mark.parametrize("group", RAY_GROUPS, ids=["head", "workers"])
def test_the_pods_of_a_ray_job_keep_to_the_schema(group):
    need("kubernetes_validate", "kubernetes-validate")
    import kubernetes_validate

    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(group["template"])}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    kubernetes_validate.validate(CRAWL_CLAIM, "1.34", strict=True)
    pod["spec"]["containers"][0]["resourses"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_a_ray_job_runs_our_command_where_all_pods_share_the_storage(monkeypatch, tmp_path, urnet_here):
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    program, *arguments = shlex.split(RAY_JOB["spec"]["entrypoint"])
    assert program == "urnet" and arguments[0] == "run"
    for flag in ("--executor ray", "--address auto"):
        assert flag in RAY_JOB["spec"]["entrypoint"]
    # Another folder than there, and the command draws a plan.
    (tmp_path / "crawl" / "lion").mkdir(parents=True)
    (tmp_path / "crawl" / "lion" / "1.jpg").touch()
    line = [argument.replace("/data", str(tmp_path)) for argument in arguments]
    assert urnet_here(*line, "--dry_run").returncode == 0
    for group in RAY_GROUPS:
        spec = group["template"]["spec"]
        (claim,) = (volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"])
        (mount,) = spec["containers"][0]["volumeMounts"]
        assert claim == CRAWL_CLAIM["metadata"]["name"] and mount["mountPath"] == "/data"
    assert CRAWL_CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in RAY_GROUPS}) == 1


def test_the_ray_of_a_ray_job_is_the_tested_one():
    pins = (DEPLOY.parents[1] / "requirements.txt").read_text(encoding="utf-8")
    assert f"\nray=={CLUSTER['rayVersion']} " in pins
    page = (DEPLOY.parent / "clusters.md").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{CLUSTER['rayVersion']}-py311" in page
