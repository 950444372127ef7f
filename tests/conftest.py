"""What holds for all tests."""

from __future__ import annotations

import logging
import signal
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


@pytest.fixture(scope="session", autouse=True)
def sessions_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Instances of the machine's user stay out of the tests, and theirs out of the user's."""
    folder = tmp_path_factory.mktemp("s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SESSIONS", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def no_instance_is_left(sessions_folder: Path) -> Iterator[None]:
    """The next module would find it, and use it or end it."""
    yield
    left = [lock.parent for lock in sessions_folder.glob("*/root.lock") if is_alive(lock.parent)]
    assert not left, f"instances that this module has started and not ended: {left}"


@pytest.fixture(autouse=True)
def logging_as_at_first() -> None:
    """What a process of an instance sets up for its log, and a test does here, is not left to the next one."""
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
