"""Reading a config file: YAML in, a checked `ServeDeploySchema` out, every mistake with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.problems import Path as KeyPath
from headrace.config.problems import Problem, nearest, shown, written
from headrace.config.schema import ServeDeploySchema
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    import yaml


def load_config(source: str | Path, *, name: str | None = None) -> ServeDeploySchema:
    """Read and check a config.

    Args:
        source: the path of a YAML (or JSON) file, or, as a string, the YAML itself.
        name: what messages call it; by default the path, or `<config>`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or something in it is wrong. Each mistake is named with file
            and line, the path of the field, the wrong value and what would be right.
    """
    if isinstance(source, Path):
        return _parse(_text_of(source), name or str(source))
    return _parse(source, name or "<config>")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [sibling.name for sibling in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        meant = nearest(path.name, siblings)
        hint = f"; did you mean '{path.with_name(meant)}'?" if meant else ""
        raise ConfigError(f"there is no file '{path}'{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}") from None


def _parse(text: str, name: str) -> ServeDeploySchema:
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise ConfigError(f"{name} is empty; it needs at least\n\napplications:\n- import_path: module:application")
        _refuse_repeated_keys(root, name)
        data = _constructed(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        excerpt = mark.get_snippet() if mark else None
        raise ConfigError(f"{where}: not valid YAML: {error.problem}" + (f"\n{excerpt}" if excerpt else "")) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: must be a mapping with the key 'applications', not {shown(data)}")
    problems = ServeDeploySchema.problems_in(data)
    if problems:
        raise ConfigError(_report(name, root, problems))
    return ServeDeploySchema.model_validate(data)


def _constructed(root: yaml.Node) -> Any:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _report(name: str, root: yaml.Node, problems: list[Problem]) -> str:
    located = sorted(((_line_of(root, problem.path), problem) for problem in problems), key=lambda found: found[0])
    lines = [f"{name}:{line}: {problem}" for line, problem in located]
    return lines[0] if len(lines) == 1 else f"{len(lines)} mistakes\n" + "\n".join(f"  {line}" for line in lines)


def _line_of(root: yaml.Node, path: KeyPath) -> int:
    """The line of the deepest part of `path` that is in the document; for a key, the line where the key stands."""
    import yaml

    node, line = root, root.start_mark.line
    for part in path:
        entry: tuple[yaml.Node, yaml.Node] | None = None
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if str(key.value) == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            entry = (node.value[part], node.value[part])
        if entry is None:
            break
        line, node = entry[0].start_mark.line, entry[1]
    return int(line) + 1


def _refuse_repeated_keys(root: yaml.Node, name: str) -> None:
    """YAML lets the last of two equal keys win in silence; somebody meant the first one."""
    for path, first, second in _repeated_keys(root, (), set()):
        raise ConfigError(f"{name}:{second}: {written(path)}: is already given in line {first}; remove one of them")


def _repeated_keys(node: yaml.Node, path: KeyPath, seen: set[int]) -> Iterator[tuple[KeyPath, int, int]]:
    import yaml

    if id(node) in seen:  # an alias; it may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            here, line = (*path, str(key.value)), int(key.start_mark.line) + 1
            if here[-1] in lines and key.tag != "tag:yaml.org,2002:merge":
                yield here, lines[str(here[-1])], line
            lines[str(here[-1])] = line
            yield from _repeated_keys(value, here, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _repeated_keys(value, (*path, index), seen)
