"""An instance with real processes, as the tests of the core have it."""

from tests.serve.conftest import http, instance, sessions_folder

__all__ = ["http", "instance", "sessions_folder"]
