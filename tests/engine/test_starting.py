"""Which engine an instance is started on, where nobody says so, and what is said where that cannot be."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from headrace.engine.starting import chosen_engine
from headrace.exceptions import ConfigError


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HEADRACE_ENGINE", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)


def test_it_is_this_machine_where_nothing_is_said() -> None:
    assert chosen_engine() == "local"


def test_the_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ENGINE", "ray")
    assert chosen_engine() == "ray"
    assert chosen_engine("local") == "local"


def test_a_process_that_is_connected_to_ray_uses_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = types.ModuleType("ray")
    ray.is_initialized = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert chosen_engine() == "ray"


def test_a_job_of_a_cluster_uses_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert chosen_engine() == "ray"


def test_another_engine_is_refused_by_the_name_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="engine: must be 'local' or 'ray', not 'dask'"):
        chosen_engine("dask")
    monkeypatch.setenv("HEADRACE_ENGINE", "rya")
    with pytest.raises(ConfigError, match=r"\$HEADRACE_ENGINE: must be 'local' or 'ray', not 'rya'"):
        chosen_engine()


def test_who_has_no_ray_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['ray'] = None; import headrace; headrace.start(engine='ray')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'headrace[ray]'" in done.stderr


def test_an_address_needs_the_engine_that_has_one() -> None:
    code = "import headrace; headrace.start(engine='local', address='10.0.0.1:6379')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "needs engine='ray'" in done.stderr


def test_importing_headrace_does_not_import_ray() -> None:
    code = "import sys, headrace, headrace.cli; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
