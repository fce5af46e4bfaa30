"""The import order of the package: a module imports only from layers below its own (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

import asr

ROOT = Path(__file__).parent.parent
LAYERS = {
    "errors": 0,
    "config": 1,
    "containers": 1,
    "media": 1,
    "files": 1,
    "archive": 2,
    "layouts": 3,
    "detect": 4,
    "export": 3,
    "init": 6,
    "cli_corpus": 10,
    "corpus": 4,
    "spoken": 2,
    "audio": 2,
    "device": 2,
    "manifest": 2,
    "mel": 2,
    "meter": 3,
    "plot": 2,
    "scoring": 2,
    "text": 2,
    "tokenizers": 3,
    "transcript": 2,
    "features": 3,
    "augment": 3,
    "models": 3,
    "checkpoint": 4,
    "data": 4,
    "decode": 4,
    "calibrate": 9,
    "compare": 3,
    "confidence": 3,
    "segment": 3,
    "endpoint": 5,
    "long": 6,
    "lm": 5,
    "preflight": 5,
    "decoding": 6,
    "train": 6,
    "recognizer": 7,
    "stream": 8,
    "live": 9,
    "batch": 8,
    "evaluate": 9,
    "tune": 8,
    "cli_language": 10,
    "cli": 11,
}
# ``from asr import load`` takes from the recognizer: a public name counts as the module that it comes from.
HOMES = {f"asr.{name}": home for name, home in asr._HOMES.items()}
FILES = sorted((ROOT / "asr").rglob("*.py"))


def room(module):
    """The top-level module or package of ``asr`` that a dotted name lies in, None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imported(path):
    """(room, line) of everything from ``asr`` that a file imports, types-only imports included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "asr" or name.startswith("asr."):
                found = room(HOMES.get(name, name))
                # ``from asr import __version__`` takes from the package itself.
                if found in LAYERS:
                    yield found, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    parts = path.relative_to(ROOT / "asr").with_suffix("").parts
    if parts == ("__init__",):
        return
    own = parts[0]
    assert own in LAYERS, f"{path}: new module; give it a layer here and in docs/architecture.md"
    for other, line in imported(path):
        assert other == own or LAYERS[other] < LAYERS[own], (
            f"{path}:{line}: {own} (layer {LAYERS[own]}) imports {other} (layer {LAYERS[other]})"
        )


def test_public_names_count_as_their_modules(tmp_path):
    (tmp_path / "a.py").write_text("from asr import __version__, load\nimport asr.errors\n")
    assert list(imported(tmp_path / "a.py")) == [("recognizer", 1), ("errors", 2)]


def test_every_layer_has_its_module():
    rooms = {p.relative_to(ROOT / "asr").with_suffix("").parts[0] for p in FILES} - {"__init__"}
    assert rooms == set(LAYERS)


def test_the_package_does_not_import_recipes_examples_or_tools():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"recipes", "egs", "tools", "tests"}, path
