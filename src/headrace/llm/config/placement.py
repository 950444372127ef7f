"""Which resources the workers of one replica reserve, and how far apart."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, model_validator

from headrace.config.model import ConfigModel
from headrace.config.placement import Bundle, Strategy, check_bundles
from headrace.config.problems import mistake


def _one_bundle(bundle: Bundle) -> Bundle:
    return check_bundles([bundle])[0]


class PlacementGroupConfig(ConfigModel):
    """Resources of a replica's workers; one of `bundle_per_worker` and `bundles`.

    Attributes:
        bundle_per_worker: of each worker, such as `{"GPU": 1, "CPU": 4}`; there are as many as the parallel sizes ask
            for.
        bundles: one entry per worker.
        strategy: `PACK`, `STRICT_PACK`, `SPREAD` or `STRICT_SPREAD`.
    """

    title: ClassVar[str] = "wrong placement_group_config"

    bundle_per_worker: Annotated[Bundle, AfterValidator(_one_bundle)] | None = None
    bundles: Annotated[list[Bundle], AfterValidator(check_bundles)] | None = None
    strategy: Strategy = "PACK"

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.bundle_per_worker is not None and self.bundles is not None:
            raise mistake("excludes bundles; remove one of them", "bundle_per_worker")
        if self.bundle_per_worker is None and self.bundles is None:
            raise mistake("is required, such as {'GPU': 1}; or bundles, a list of them", "bundle_per_worker")
        return self
