"""Where the log lines of replicas go, and in which form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
import headrace as serve

folder = sys.argv[1]

@serve.deployment
class Model:
    def __call__(self, name):
        logging.getLogger("headrace").info("info of %s", name)
        logging.getLogger("ray.serve").info("from Ray's logger, of %s", name)
        logging.getLogger("headrace").debug("debug of %s", name)
        return name

def ask(deployment, name, **more):
    serve.run(deployment.options(name=name).bind(), name=name, route_prefix=None, **more).remote(name).result()

serve.start(http_options={"port": 0}, rest_options={"port": 0}, logging_config={"encoding": "JSON"})
ask(Model, "instance")
ask(Model, "application", logging_config={"log_level": "DEBUG", "additional_log_standard_attrs": ["lineno"]})
ask(Model.options(logging_config={"log_level": "ERROR", "logs_dir": folder}), "quiet")
ask(Model.options(logging_config={"log_level": "DEBUG", "logs_dir": folder}), "file", logging_config={})
"""


@pytest.mark.local_engine("a script's terminal shows the log of an instance of its own alone")
def test_the_nearest_logging_config_counts(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "logs"
    ended = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=60, check=True)
    lines = ended.stderr.splitlines()
    json_lines = [json.loads(line) for line in lines if line.startswith("{")]
    (line,) = (line for line in json_lines if line["message"] == "info of instance")
    assert (line["levelname"], line["application"], line["deployment"]) == ("INFO", "instance", "instance")
    assert any(line["message"] == "from Ray's logger, of instance" for line in json_lines)
    (line_of_application,) = (line for line in lines if "debug of application" in line)
    assert "DEBUG" in line_of_application and " lineno=" in line_of_application
    assert not any("of quiet" in line for line in lines)
    (of_file,) = (file.read_text() for file in folder.iterdir() if file.name.startswith("file#file#"))
    assert "info of file" in of_file and "debug of file" in of_file
