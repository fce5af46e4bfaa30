"""The import order of the package: a module imports only from layers below its own (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

import asr

ROOT = Path(__file__).parent.parent
LAYERS = {
    "errors": 0,
    "arguments": 1,
    "settings": 1,
    "config": 2,
    "containers": 1,
    "media": 1,
    "files": 1,
    "lines": 1,
    "archive": 3,
    "layouts": 4,
    "detect": 6,
    "export": 5,
    "init": 8,
    "cli_corpus": 13,
    "corpus": 5,
    "spoken": 3,
    "audio": 3,
    "device": 3,
    "manifest": 3,
    "mel": 3,
    "meter": 4,
    "plot": 6,
    "alternatives": 1,
    "formats": 3,
    "transcript_files": 4,
    "scoring": 5,
    "text": 3,
    "tokenizers": 4,
    "subtitles": 1,
    "tabular": 5,
    "textfiles": 3,
    "turns": 4,
    "transcript": 2,
    "features": 4,
    "augment": 4,
    "splice": 4,
    "models": 4,
    "checkpoint": 5,
    "data": 5,
    "decode": 5,
    "calibrate": 12,
    "compare": 6,
    "confidence": 4,
    "segment": 6,
    "average": 6,
    "endpoint": 6,
    "long": 7,
    "lm": 6,
    "preflight": 7,
    "language_models": 7,
    "vocabulary": 6,
    "decoding": 8,
    "train": 8,
    "options": 9,
    "said": 4,
    "recognizer": 10,
    "stream": 11,
    "label": 12,
    "live": 12,
    "batch": 11,
    "outputs": 3,
    "terminal": 1,
    "cpus": 1,
    "evaluate": 12,
    "tune": 11,
    "cli_language": 13,
    "cli": 14,
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
