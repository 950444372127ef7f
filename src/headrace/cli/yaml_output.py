"""YAML for people to read and keep: in the given order, long texts as blocks, an empty line between the parts."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(data: Any) -> str:
    """The data as YAML. Strings, numbers, lists and dicts only."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False)


def document(data: dict[str, Any]) -> str:
    """A mapping as YAML, with an empty line between its entries."""
    return "\n".join(to_yaml({key: value}) for key, value in data.items())
