"""Imports the user's modules as they were deployed, whatever has become of their files since.

A replica may start long after its deployment was deployed: in the place of one that died, to scale up, or for a
rollback. It then has to run what the others run.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

from headrace.config.spec import SourceFile

logger = logging.getLogger("headrace.replica")


def import_as_deployed(sources: Mapping[str, SourceFile]) -> None:
    """From now on this process imports these modules as they are given."""
    if sources:
        sys.meta_path.insert(0, _DeployedFinder(sources))


class _DeployedFinder(MetaPathFinder):
    """Finds modules whose files have changed. The others are left to Python, which has them compiled already."""

    def __init__(self, sources: Mapping[str, SourceFile]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        deployed = self._sources.get(fullname)
        if deployed is None or _content(deployed.path) == deployed.source:
            return None
        logger.info("%s has changed since it was deployed; this replica runs what was deployed", deployed.path)
        folder, file = os.path.split(deployed.path)
        return importlib.util.spec_from_file_location(
            fullname,
            deployed.path,
            loader=_DeployedLoader(fullname, deployed.path, deployed.source),
            submodule_search_locations=[folder] if file == "__init__.py" else None,
        )


class _DeployedLoader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: bytes) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_data(self, path: str) -> bytes:
        return self._source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Mapping[str, float]:
        # Without a time there is no cache of compiled code, which would be the file's and not ours.
        raise OSError("this source is not the file's")


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
