"""`BatchConfig`: how files and batches are kept and worked off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from headrace.config.model import ConfigModel, PositiveInt


class BatchConfig(ConfigModel):
    """How `/v1/files` and `/v1/batches` work.

    Attributes:
        folder: where files and batches are kept, in a folder of the application's name; "" for `headrace/batches` in
            the user's data folder (`$XDG_DATA_HOME`, or `~/.local/share`). On a cluster, one that all nodes have.
        concurrency: requests under way at a time, of all batches together.
        max_file_bytes: longest file that may be uploaded.
    """

    title: ClassVar[str] = "wrong batch_config"

    folder: str = ""
    concurrency: PositiveInt = 64
    max_file_bytes: PositiveInt = 200 * 2**20

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder:
            return Path(self.folder).expanduser()
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return Path(data).expanduser() / "headrace" / "batches"
