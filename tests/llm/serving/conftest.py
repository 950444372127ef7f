"""An instance with real processes, as the tests of the core have it."""

from tests.serve.conftest import http, instance

__all__ = ["http", "instance"]
