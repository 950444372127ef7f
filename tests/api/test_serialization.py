"""Code on its way to another process: it means the same there, and what cannot go is named."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from headrace.deployments import deployment
from headrace.exceptions import SerializationError
from headrace.serialization import dumps_code, is_serializable, loads_code


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = """
    import pickle, sys, typing
    loaded = pickle.load(open(sys.argv[1], "rb"))
"""


@deployment
class Decorated:
    pass


def test_decorated_class_of_a_module_travels_as_a_reference() -> None:
    data = dumps_code(Decorated.func_or_class)
    assert len(data) < 200
    assert loads_code(data) is Decorated.func_or_class


def test_class_of_the_main_script_arrives_with_its_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from __future__ import annotations
            import sys
            from dataclasses import dataclass, field
            from pydantic import BaseModel
            from headrace.serialization import dumps_code
            class Document(BaseModel):
                text: str
            @dataclass
            class Options:
                document: Document
                limit: int = 3
                names: list[str] = field(default_factory=list)
            class Model:
                def __call__(self, options: Options, more: list[Document] | None = None) -> Document:
                    return options.document
            open(sys.argv[1], "wb").write(dumps_code(Model))
        """)
    )
    subprocess.run([sys.executable, str(script), str(tmp_path / "code")], check=True, timeout=60)
    told = run(
        LOAD
        + """
    from pydantic import TypeAdapter
    hints = typing.get_type_hints(loaded.__call__)
    made = TypeAdapter(hints["options"]).validate_python({"document": {"text": "hello"}})
    print(made.limit, made.names, loaded()(made).text, hints["more"])
    """,
        tmp_path / "code",
    )
    assert told == "3 [] hello list[__main__.Document] | None"


def test_module_that_no_name_leads_to_travels_by_value(tmp_path: Path) -> None:
    file = tmp_path / "hidden_module.py"
    file.write_text(
        "FACTOR = 3\nclass Model:\n    def __call__(self, x): return helper(x)\ndef helper(x): return FACTOR * x\n"
    )
    spec = importlib.util.spec_from_file_location("hidden_module", file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["hidden_module"] = module
    try:
        spec.loader.exec_module(module)
        (tmp_path / "code").write_bytes(dumps_code(module.Model))
    finally:
        del sys.modules["hidden_module"]
    assert run(LOAD + "    print(loaded()(2))", tmp_path / "code") == "6"


def test_shared_globals_of_a_module_stay_shared(tmp_path: Path) -> None:
    (tmp_path / "served_state.py").write_text(
        textwrap.dedent("""
            import threading
            from headrace.deployments import deployment
            lock = threading.Lock()
            cache = {}
            def remember(key): cache[key] = True
            @deployment
            class Model:
                def __call__(self, key):
                    with lock:
                        remember(key)
                        return key in cache
        """)
    )
    told = run(
        """
        import sys; sys.path.insert(0, sys.argv[1])
        import served_state
        from headrace.serialization import dumps_code
        open(sys.argv[1] + "/code", "wb").write(dumps_code(served_state.Model.func_or_class))
        """,
        tmp_path,
    )
    told = run(
        "import sys; sys.path.insert(0, sys.argv[2])" + LOAD.replace("\n    ", "\n") + "print(loaded()('k'))",
        tmp_path / "code",
        tmp_path,
    )
    assert told == "True"


class Holder:
    def __init__(self) -> None:
        self.fine = [1, 2]
        self.connections = {"db": threading.Lock()}


def a_function() -> Any:
    lock = threading.Lock()

    def inner() -> Any:
        return lock

    return inner


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Holder(), r"the value\.connections\['db'\] is a _thread\.lock"),
        ([1, (2, threading.Lock())], r"the value\[1\]\[1\] is a _thread\.lock"),
        (a_function(), "the variable 'lock' that the value uses is a _thread.lock"),
        ((i for i in range(3)), "the value is a generator"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_path(value: Any, message: str) -> None:
    assert not is_serializable(value)
    with pytest.raises(SerializationError, match=message) as caught:
        dumps_code(value)
    assert "Create it inside the deployment" in str(caught.value)


def test_cyclic_values_are_explained_too() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert is_serializable(cyclic)
    cyclic.append({"lock": threading.Lock()})
    with pytest.raises(SerializationError, match=r"the value\[1\]\['lock'\]"):
        dumps_code(cyclic)


def test_pickles_need_nothing_but_pickle_to_be_read() -> None:
    assert pickle.loads(dumps_code({"a": (1, "b", {2.5})})) == {"a": (1, "b", {2.5})}
