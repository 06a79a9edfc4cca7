"""Images to batches. This room is TensorFlow's only door, and opens it here: on the CPU, in silence, with oneDNN."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Sends file descriptor 2 to /dev/null: TensorFlow announces oneDNN there before any setting can stop it."""
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


# Set here and not left to the environment: batches are a pure function of (seed, step), and oneDNN's products round
# differently. Resampling with them takes a third less time. To be set before TensorFlow is first imported.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
with _silence():
    import tensorflow as tf

    # Else TensorFlow takes all memory of a GPU away from jax. Starting the runtime announces oneDNN once more.
    tf.config.set_visible_devices([], "GPU")
    tf.constant(0)
