"""An instance with real processes, as for the tests of the API."""

from tests.llm.api.conftest import instance, run

__all__ = ["instance", "run"]
