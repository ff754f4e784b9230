"""One thread for all of these small networks."""

from kit import one_thread  # noqa: F401  a fixture
