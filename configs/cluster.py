"""Where a run goes: what `lvit launch` fills its templates (launch/) with. Copied, or set by --cluster.a=value.

lvit launch --on=queued --cluster=configs/cluster.py --cluster.tpu=v5e:4x4 --cluster.project=my-project ...
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    return ConfigDict(
        {
            "name": "lvit",  # of all that is made: queued resource, instance group, JobSet, job
            "tpu": placeholder(str),  # generation:topology, as in `lvit plan`: v5e:4x4, v6e:2x4, v5p:2x2x2
            "spot": True,  # cheaper, and preempted now and then; the run resumes
            "restarts": 100,  # how often a run is started again before it is given up
            "project": placeholder(str),  # of Google Cloud: queued, gce
            "zone": placeholder(str),  # queued, gce; skypilot looks for one itself where it is None
            "package": placeholder(str),  # what pip installs on the workers: "lvit_jax[tpu] @ git+https://..."
            "image": placeholder(str),  # gke: what launch/Dockerfile was pushed as
            "service_account": placeholder(str),  # gke: the Kubernetes account that may read and write the buckets
            "data_bucket": placeholder(str),  # a bucket that every worker sees as the folder /data, read-only
        }
    )
