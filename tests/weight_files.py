"""The makers of small weight files, which the fuzzing shares."""

from experiments.fuzzing.tensorflow_files import *  # noqa: F403
from experiments.fuzzing.weight_files import *  # noqa: F403
