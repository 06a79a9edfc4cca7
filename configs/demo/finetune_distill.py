"""Fine-tuning with a teacher's answers in miniature, on the bundled digits; trains its demo teacher first.

lvit train --config=configs/demo/finetune_distill.py --workdir=runs/demo_ft_distill
"""

from lvit_jax.configs import labelled
from lvit_jax.configs.demo import finetune


def get_config():
    config = labelled.classify_distill(finetune.get_config())
    config.train.epochs = 25.0
    config.init.demo_teacher = "configs/demo/teacher_classifier.py"
    return config
