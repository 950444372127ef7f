"""Runs every block of a Markdown page, in order, as a reader would: `python tests/docs/run_page.py docs/quickstart.md`.

All blocks of a page share one folder. A block with a title is written to that file. Python without a title runs as a
script, bash as a script. A bash block that begins with `headrace run` serves in the background until the next block
that starts an instance (`headrace run`, `headrace start` or `serve.run(`), or until the end of the page. A text block
right after a script is what it must print (`...` stands for anything). YAML with `applications` must be a valid config
file. A comment `<!-- not run: why -->` before a block excepts it.

The pages use the default ports, so the test runs each page in a network of its own.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from page import Block, read_blocks

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 60
OUTPUT_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class PageError(Exception):
    """A block of the page does not do what the page says."""


class PageRunner:
    """Runs blocks in `folder`, keeping at most one server in the background."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.server_log = folder / "server.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HEADRACE_SESSIONS": str(folder / "s"),
            "NO_COLOR": "1",
            "COLUMNS": "160",
        }
        (folder / "examples").symlink_to(ROOT / "examples")

    def run(self, block: Block) -> None:
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.source)
        if not block.is_run:
            return
        if block.title is None and re.search(r"^headrace (run|start)|\bserve\.run\(", block.source, re.MULTILINE):
            self.stop_server()
        if block.language == "yaml":
            self.check_yaml(block)
        elif block.language == "json":
            json.loads(block.source)
        elif block.language == "python" and block.title is not None:
            compile(block.source, block.title, "exec")
        elif block.language == "python":
            script = self.folder / f"line_{block.line}.py"
            script.write_text(block.source)
            self.run_command([sys.executable, script.name], block)
        elif block.language == "bash" and re.match(r"headrace run(?!.*--help)", block.source):
            self.serve(block)
        elif block.language == "bash":
            self.run_command(["bash", "-euo", "pipefail", "-c", block.source], block)

    def check_yaml(self, block: Block) -> None:
        if not re.search(r"^applications:", block.source, re.MULTILINE):
            return
        from headrace.config.config_file import load_config

        path = self.folder / (block.title or f"line_{block.line}.yaml")
        path.write_text(block.source)
        try:
            load_config(path)
        except Exception as error:
            raise PageError(self.where(block) + f"not a valid config file: {error}") from error

    def run_command(self, command: list[str], block: Block) -> None:
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise PageError(
                self.where(block) + f"did not end in {TIMEOUT_S} s\n{expired.stdout}\n{expired.stderr}"
            ) from None
        if done.returncode != 0:
            raise PageError(self.where(block) + f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        if block.output is not None and not doctest.OutputChecker().check_output(
            block.output, done.stdout, OUTPUT_FLAGS
        ):
            raise PageError(
                self.where(block) + f"printed\n{done.stdout}\ninstead of\n{block.output}\nstderr:\n{done.stderr}"
            )

    def serve(self, block: Block) -> None:
        """Starts the block's server and waits until it serves an application."""
        with self.server_log.open("wb") as log:
            self.server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"exec {block.source}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + TIMEOUT_S
        while not self.serves_an_application():
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise PageError(self.where(block) + "the server is not ready\n" + self.server_log.read_text())
            time.sleep(0.05)

    def serves_an_application(self) -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8000/-/routes", timeout=5) as answer:
                return bool(json.load(answer))
        except (urllib.error.URLError, OSError):
            return False

    def stop_server(self) -> None:
        if self.server is None:
            return
        if self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            raise PageError(f"{self.page}: the server did not end after Ctrl-C") from None
        finally:
            self.server = None

    def where(self, block: Block) -> str:
        return f"{self.page}:{block.line}: "


@contextmanager
def page_runner(page: Path) -> Iterator[PageRunner]:
    # A short path: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        runner = PageRunner(page, Path(folder))
        try:
            yield runner
        finally:
            runner.stop_server()
            if (runner.folder / "s" / "current").exists():
                subprocess.run(
                    ["headrace", "shutdown", "--yes"], env=runner.environment, capture_output=True, check=False
                )


def main() -> int:
    page = Path(sys.argv[1])
    with page_runner(page) as runner:
        try:
            for block in read_blocks(page):
                runner.run(block)
        except (PageError, ValueError) as error:
            print(error, file=sys.stderr)
            if runner.server is not None:
                print("server:", runner.server_log.read_text(), sep="\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
