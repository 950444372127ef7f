"""What holds for all tests."""

from __future__ import annotations

import signal

# Where the tests were started in the background of a shell script, Ctrl-C is ignored, and so it would be in every
# process that a test starts and ends with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
