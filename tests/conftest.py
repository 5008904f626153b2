"""What every test shares: one process, two logical CPUs, and the way to the real data."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest
import tensorflow as tf

# The same examples on every machine and day: a failure is there for the next developer too.
hypothesis.settings.register_profile("derandomised", derandomize=True)
hypothesis.settings.load_profile("derandomised")

REAL_DATA_VARIABLE = "YT8M_REAL_DATA"


def pytest_configure() -> None:
    """Splits the CPU in two before TensorFlow starts, so that tests of several devices run on any machine."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records, or a skip where this machine has none."""
    folder = os.environ.get(REAL_DATA_VARIABLE, "")
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"needs real records: set {REAL_DATA_VARIABLE} to a folder laid out as docs/data.md says")
    return Path(folder)
