"""The recipes' ``prepare.py``, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).parent.parent / "recipes"


def load_recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_prepare", RECIPES / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
