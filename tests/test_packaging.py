"""What is installed and under which name: the distribution, its advice, its editable form."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_distribution_has_a_name_of_its_own_and_the_command_keeps_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "recurrent-asr"
    assert project["scripts"] == {"asr": "asr.cli:main"}


def test_no_advice_installs_the_package_of_somebody_else():
    # The name "asr" on PyPI belongs to another project.
    foreign = re.compile(r"pip install[^\n]*['\" ]asr(\[|['\" ]|$)")
    for folder in ("asr", "docs", "egs", "recipes", "tools"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.yaml")]:
            assert not foreign.search(path.read_text(encoding="utf-8")), path
    assert not foreign.search((ROOT / "README.md").read_text(encoding="utf-8"))
