"""What hardware a model runs on, as a config names it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from headrace.config.model import ConfigModel
from headrace.config.problems import nearest, shown

TPU_TYPES = ("TPU-V2", "TPU-V3", "TPU-V4", "TPU-V5LITEPOD", "TPU-V5P", "TPU-V6E", "TPU-V7X")

# Ray's names, so that configs written for it stay right.
ACCELERATOR_TYPES = (
    *("V100", "P100", "T4", "P4", "K80", "A10G", "L4", "L40S", "A100", "A100-40G", "A100-80G", "H100", "H200", "H20"),
    *("B200", "B300", "GB200", "GB300", "RTX-PRO-6000"),
    *("Intel-GPU-Max-1550", "Intel-GPU-Max-1100", "Intel-GAUDI"),
    *("AMD-Instinct-MI100", "AMD-Instinct-MI210", "AMD-Instinct-MI250X", "AMD-Instinct-MI250X-MI250"),
    *("AMD-Instinct-MI300A", "AMD-Instinct-MI300X-OAM", "AMD-Instinct-MI300X-HF", "AMD-Instinct-MI308X"),
    *("AMD-Instinct-MI325X-OAM", "AMD-Instinct-MI350X-OAM", "AMD-Instinct-MI355X-OAM"),
    *("AMD-Radeon-R9-200-HD-7900", "AMD-Radeon-HD-7900"),
    *("aws-neuron-core", "Ascend910B", "Ascend910B4", "MXC500", "MXC550", "FURIOSA_RNGD"),
    *("MOBILINT_ARIES", "MOBILINT_REGULUS"),
    *("M1", "M1-Pro", "M1-Max", "M1-Ultra", "M2", "M2-Pro", "M2-Max", "M2-Ultra", "M3", "M3-Pro", "M3-Max"),
    "Apple-Silicon",
    *TPU_TYPES,
)

Kind = Literal["cpu", "gpu", "tpu"]


def _known_type(value: Any) -> Any:
    if value == "A10":  # how everybody else calls the card that clouds sell as A10G
        return "A10G"
    if isinstance(value, str) and value not in ACCELERATOR_TYPES:
        meant = nearest(value, ACCELERATOR_TYPES)
        hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(ACCELERATOR_TYPES)}"
        raise ValueError(f"{shown(value)} is no accelerator type; {hint}")
    return value


AcceleratorType = Annotated[str, BeforeValidator(_known_type)]


class AcceleratorConfig(ConfigModel):
    """The kind of hardware, where nothing else in the config tells it.

    Attributes:
        kind: `cpu`, `gpu` or `tpu`.
        topology: of a TPU slice, such as `4x4`.
    """

    title: ClassVar[str] = "wrong accelerator_config"

    kind: Kind
    topology: str | None = Field(default=None)


def kind_of_type(accelerator_type: str) -> Kind:
    """`tpu` for Google's, `gpu` for all others, as Ray Serve LLM sees them."""
    return "tpu" if accelerator_type in TPU_TYPES else "gpu"
