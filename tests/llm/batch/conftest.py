from tests.llm.serving.conftest import http, instance, sessions_folder

__all__ = ["http", "instance", "sessions_folder"]
