"""What holds for all tests."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from headrace.engine.session import is_alive

# A busy machine is no reason to fail: no test is about how long one example takes.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

# Where the tests were started in the background of a shell script, Ctrl-C is ignored, and so it would be in every
# process that a test starts and ends with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


ENGINES = ("local", "ray", "ray-3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=ENGINES,
        default="local",
        help="where tests have their instances run: this machine, or a Ray cluster of one machine or of three",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--engine") == "local":
        return
    for item in items:
        marker = item.get_closest_marker("local_engine")
        if marker is not None:
            item.add_marker(pytest.mark.skip(reason=f"on one machine only: {marker.args[0]}"))


@pytest.fixture(scope="session", autouse=True)
def engine_of_all_tests(request: pytest.FixtureRequest, sessions_folder: Path) -> Iterator[None]:
    """Where the tests' instances run."""
    engine = request.config.getoption("--engine")
    if engine == "local":
        yield
        return
    from ray_cluster import cluster

    with cluster(3 if engine == "ray-3" else 1):
        yield


@pytest.fixture(scope="session", autouse=True)
def sessions_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Instances of the machine's user stay out of the tests, and theirs out of the user's."""
    folder = tmp_path_factory.mktemp("s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SESSIONS", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def no_instance_is_left(request: pytest.FixtureRequest, sessions_folder: Path) -> Iterator[None]:
    """The next module would find it, and use it or end it."""
    yield
    # The other machines of a cluster end a moment later than this one.
    deadline = time.monotonic() + (0.0 if request.config.getoption("--engine") == "local" else 30.0)
    while left := [lock.parent for lock in sessions_folder.glob("*/root.lock") if is_alive(lock.parent)]:
        assert time.monotonic() < deadline, f"instances that this module has started and not ended: {left}"
        threading.Event().wait(0.05)


@pytest.fixture(autouse=True)
def logging_as_at_first() -> None:
    """What a process of an instance sets up for its log, and a test does here, is not left to the next one."""
    logging.root.setLevel(logging.WARNING)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in ("headrace", "ray"):
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
            logger.disabled = False


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What applications keep for their users stays out of this user's."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield folder
