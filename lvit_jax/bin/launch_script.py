"""The scripts of `lvit launch`: templates of launch/, filled from a cluster section and one training command."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import lvit_jax
from lvit_jax.bin.launch_tpu import GENERATIONS, Slice
from lvit_jax.errors import InputError

BUCKET = r"[a-z0-9][-a-z0-9_.]{1,220}[a-z0-9]"
# What a field may be (as Google Cloud, Kubernetes and image registries have it), in words, and an example.
FORMS = {
    "name": (r"[a-z]([-a-z0-9]{0,22}[a-z0-9])?", "small letters, digits and hyphens, a letter first, up to 24", "lvit"),
    "project": (
        r"([a-z][-a-z0-9.]*:)?[a-z][-a-z0-9]{4,28}[a-z0-9]",
        "the id of a project, not its title",
        "my-project",
    ),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "a zone of Google Cloud", "us-west4-a"),
    "package": (r"\S(.*\S)?", "what pip installs", "lvit_jax[tpu] @ git+https://..."),
    "image": (r"[a-z0-9][\w.:/@-]*", "an image of a registry", "us-docker.pkg.dev/my-project/lvit/lvit:1"),
    "service_account": (r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "an account of Kubernetes", "trainer"),
    "data_bucket": (BUCKET, "a bucket's name, without gs://", "my-images"),
}


class Job(NamedTuple):
    """What is launched: the training command, on which slice, with which cluster section."""

    train: Sequence[str]
    tpu: Slice
    cluster: Mapping[str, Any]

    @property
    def title(self) -> str:
        """One line that says what a script is."""
        return f"Made by `lvit launch`: {shlex.join(self.train)} on {self.tpu.name}"

    @property
    def name(self) -> str:
        """A name that another slice does not share: what was made for it would not fit."""
        spot = "-spot" if self.cluster["spot"] else ""
        return f"{self.cluster['name']}-{self.tpu.name.replace(':', '-')}{spot}"


class Way(NamedTuple):
    """A way of launching: the cluster fields it needs, the program it calls, who it knows, what makes its script."""

    needs: tuple[str, ...]
    program: str
    knows: Callable[[Slice], bool]
    script: Callable[[Job], str]


def script(way: str, job: Job) -> str:
    """The bash script of one way.

    Raises:
      InputError: a field that is missing or malformed, a slice that this way does not know.
    """
    chosen, cluster = WAYS[way], job.cluster
    for field in chosen.needs:
        if cluster[field] is None:
            raise InputError(f"--on={way} needs cluster.{field}; give --cluster.{field}=VALUE or a --cluster file")
    for field, (form, words, example) in FORMS.items():
        value = cluster[field]
        if value is not None and not re.fullmatch(form, value):
            raise InputError(f"cluster.{field}={value!r}: {words}, such as {example!r}")
    if cluster["restarts"] < 0:
        raise InputError(f"cluster.restarts={cluster['restarts']}; the least is 0")
    if not chosen.knows(job.tpu):
        raise _not_known(way, job.tpu)
    return chosen.script(job)


def _not_known(way: str, tpu: Slice) -> InputError:
    known = [name for name, kind in GENERATIONS.items() if WAYS[way].knows(tpu._replace(generation=kind))]
    others = [other for other in WAYS if WAYS[other].knows(tpu)]
    return InputError(f"--on={way} has no {tpu.name}: it has {', '.join(known)}; {tpu.name} is for {', '.join(others)}")


def _queued(job: Job) -> str:
    return fill(
        "queued.sh",
        **_remote(job),
        accelerator_type=job.tpu.accelerator_type,
        runtime_version=job.tpu.generation.runtime,
        spot=" \\\n    --spot" if job.cluster["spot"] else "",
    )


def _gce(job: Job) -> str:
    flags = ("--provisioning-model=SPOT", "--instance-termination-action=STOP") if job.cluster["spot"] else ()
    return fill(
        "gce.sh",
        **_remote(job),
        machine_type=job.tpu.machine_type,
        image_family=job.tpu.generation.image,
        topology=job.tpu.topology,
        spot="".join(f" \\\n      {flag}" for flag in flags),
    )


def _remote(job: Job) -> dict[str, Any]:
    """What the two ways that go over ssh have in common."""
    cluster = job.cluster
    loop = fill(
        "loop.sh",
        package=shlex.quote(cluster["package"]),
        data_bucket=shlex.quote(cluster["data_bucket"] or ""),
        restarts=cluster["restarts"],
    )
    return {
        "title": job.title,
        "name": job.name,
        "hosts": job.tpu.hosts,
        "project": shlex.quote(cluster["project"]),
        "zone": shlex.quote(cluster["zone"]),
        "train": "\n  " + "\n  ".join(map(shlex.quote, job.train)) + "\n",
        "setup": read("setup_worker.sh"),
        "run": read("run_worker.sh"),
        "loop": loop,
    }


def _gke(job: Job) -> str:
    cluster, data = job.cluster, job.cluster["data_bucket"]
    manifest = fill(
        "jobset.yaml",
        title=job.title,
        name=job.name,
        restarts=cluster["restarts"],
        hosts=job.tpu.hosts,
        chips_per_host=job.tpu.chips_per_host,
        accelerator=job.tpu.generation.gke,
        topology=job.tpu.topology,
        image=json.dumps(cluster["image"]),
        run=indent(read("run_worker.sh"), " " * 22),
        args=json.dumps(
            [arg.replace("$", "$$") for arg in job.train]
        ),  # Kubernetes reads $$ as $ and $(A) as A's value
        account=_lines(14, f"serviceAccountName: {json.dumps(cluster['service_account'])}"),
        spot=_lines(16, 'cloud.google.com/gke-spot: "true"') if cluster["spot"] else "",
        annotations=_lines(12, "metadata:", "  annotations:", '    gke-gcsfuse/volumes: "true"') if data else "",
        mount=_lines(20, "- name: data", "  mountPath: /data", "  readOnly: true") if data else "",
        volume=_csi(data) if data else "",
    )
    return fill("gke.sh", title=job.title, name=job.name, manifest=manifest)


def _csi(bucket: str) -> str:
    return _lines(
        16,
        "- name: data",
        "  csi:",
        "    driver: gcsfuse.csi.storage.gke.io",
        "    readOnly: true",
        "    volumeAttributes:",
        f"      bucketName: {json.dumps(bucket)}",
        "      mountOptions: implicit-dirs",
    )


def _skypilot(job: Job) -> str:
    cluster, bucket = job.cluster, job.cluster["data_bucket"]
    zone = cluster["zone"]
    task = fill(
        "skypilot.yaml",
        title=job.title,
        name=job.name,
        infra=json.dumps(f"gcp/{zone.rpartition('-')[0]}/{zone}" if zone else "gcp"),
        accelerators=f"tpu-{job.tpu.accelerator_type}",
        runtime_version=job.tpu.generation.runtime,
        spot="true" if cluster["spot"] else "false",
        restarts=cluster["restarts"],
        package=json.dumps(cluster["package"]),
        bucket=_lines(2, f"DATA_BUCKET: {json.dumps(bucket)}") if bucket else "",
        setup=indent(read("setup_worker.sh"), "  "),
        run=indent(read("run_worker.sh"), "  "),
        train=shlex.join(job.train),
    )
    return fill("skypilot.sh", title=job.title, task=task)


def _lines(spaces: int, *lines: str) -> str:
    """Further lines of a manifest, each on a line of its own below the place they are put in."""
    return "".join(f"\n{' ' * spaces}{line}" for line in lines)


WAYS = {
    "queued": Way(("tpu", "project", "zone", "package"), "gcloud", lambda tpu: bool(tpu.generation.runtime), _queued),
    "gce": Way(("tpu", "project", "zone", "package"), "gcloud", lambda tpu: bool(tpu.generation.image), _gce),
    "gke": Way(("tpu", "image", "service_account"), "kubectl", lambda tpu: bool(tpu.generation.gke), _gke),
    "skypilot": Way(("tpu", "package"), "sky", lambda tpu: bool(tpu.generation.runtime), _skypilot),
}


def fill(name: str, /, **values: Any) -> str:
    """The template with a value in each {{place}}; neither may have what the other lacks."""
    template = read(name)
    places = set(re.findall(r"\{\{(\w+)\}\}", template))
    if places != set(values):
        raise KeyError(f"{name}: {sorted(places ^ set(values))}")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: str(values[place[1]]), template)


def read(name: str) -> str:
    """A file of launch/: inside the package where it was installed, next to it in a clone."""
    home = Path(lvit_jax.__file__).parent
    roots = [root / "launch" for root in (home, home.parent)]
    path = next((root / name for root in roots if (root / name).is_file()), None)
    if path is None:
        raise InputError(f"the template {name} is missing from {roots[0]}; install lvit_jax again")
    return path.read_text().rstrip("\n")
