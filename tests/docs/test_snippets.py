"""Every snippet of the documentation does what the page says."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from page import read_blocks

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def own_network() -> list[str]:
    """The start of a command line that runs the rest in a network of its own, where the system allows that."""
    prefix = ["unshare", "--map-root-user", "--net", sys.executable, str(HERE / "own_network.py")]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    return []


def wait_for_default_ports() -> None:
    """Without a network of their own, the pages need the default ports of this machine."""
    for port in (8000, 8265):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.fail(f"port {port} is in use; the documentation's snippets need it, so stop what listens there")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_snippet_of_the_page_runs(page: Path) -> None:
    prefix = own_network()
    if not prefix:
        wait_for_default_ports()
    command = [*prefix, sys.executable, str(HERE / "run_page.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_block_in_an_unknown_language_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```pyhton\nprint(1)\n```\n")
    with pytest.raises(ValueError, match="pyhton"):
        read_blocks(page)


def test_a_block_that_the_parser_cannot_see_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('=== "tab"\n\n    ```python\n    print(1)\n    ```\n')
    with pytest.raises(ValueError, match="indented"):
        read_blocks(page)


@pytest.mark.parametrize(
    "content",
    [
        "```python\nraise SystemExit(3)\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```bash\nfalse\n```\n",
        "```yaml\napplications:\n  - nmae: x\n```\n",
        '```python title="file.py"\ndef\n```\n',
    ],
    ids=["script fails", "output differs", "command fails", "config is wrong", "syntax error"],
)
def test_a_wrong_snippet_fails_the_page(tmp_path: Path, content: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(content)
    done = subprocess.run([sys.executable, str(HERE / "run_page.py"), str(page)], capture_output=True, check=False)
    assert done.returncode != 0
