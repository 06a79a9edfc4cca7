"""The launches that the golden files hold, and how a test makes one."""

import contextlib
import io

from lvit_jax.bin import launch

CONFIG = "--config=configs/pretrain/mae_tiny.py"
PACKAGE = "--cluster.package=lvit_jax[tpu] @ git+https://example.org/lvit_jax"
CLOUD = ("--cluster.project=my-project", PACKAGE)
CLUSTER = ("--cluster.image=us-docker.pkg.dev/my-project/lvit/lvit:1", "--cluster.service_account=trainer")
WORKDIR = "--workdir=gs://my-bucket/mae"
DATA = "--cluster.data_bucket=my-images"

CASES = {
    "queued": ("--on=queued", CONFIG, WORKDIR, "--cluster.tpu=v5e:4x4", "--cluster.zone=us-west4-a", *CLOUD),
    "gce": ("--on=gce", CONFIG, WORKDIR, "--cluster.tpu=v6e:4x4", "--cluster.zone=us-east5-a", *CLOUD, DATA),
    "gke": ("--on=gke", CONFIG, WORKDIR, "--cluster.tpu=v6e:4x4", *CLUSTER, DATA),
    "gke_plain": ("--on=gke", CONFIG, WORKDIR, "--cluster.tpu=v5p:2x2x1", *CLUSTER, "--cluster.spot=False"),
    "skypilot": ("--on=skypilot", CONFIG, WORKDIR, "--cluster.tpu=v6e:4x4", "--cluster.zone=us-east5-b", *CLOUD, DATA),
}


def printed(*argv: str) -> str:
    """What `lvit launch` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert launch.main(argv) == 0
    return out.getvalue()


def heredoc(text: str, mark: str) -> str:
    """What a script hands to a command between <<'MARK' and MARK."""
    return text.split(f"<<'{mark}'\n", 1)[1].split(f"\n{mark}\n", 1)[0]
