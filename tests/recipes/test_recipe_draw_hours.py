"""Manifests of a fixed number of hours, drawn from others."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from recipe import RECIPES

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ConfigError


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("english_draw_hours", RECIPES / "english" / "draw_hours.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Two manifests: 100 and 5 utterances of 36 s."""
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("many", "few")}
    for name, count in (("many", 100), ("few", 5)):
        rows = [Utterance(f"{name}-{n}", f"{name}.wav", "YES", 36.0) for n in range(count)]
        manifest.write_manifest(paths[name], rows)
    return paths


def test_each_manifest_gives_its_share_of_the_hours(script, sources, tmp_path):
    out = tmp_path / "out.jsonl"
    assert script.main([str(out), "0.4", f"0.9:{sources['many']}", f"0.1:{sources['few']}"]) == 0
    drawn = [u.id.split("-")[0] for u in manifest.read_manifest(out)]
    assert (drawn.count("many"), drawn.count("few")) == (36, 4)


def test_nothing_comes_twice_before_all_has_come_once(script, sources, tmp_path):
    out = tmp_path / "out.jsonl"
    script.main([str(out), "0.12", f"1:{sources['few']}"])
    drawn = [u.id for u in manifest.read_manifest(out)]  # twelve of five: each twice, two of them three times
    assert len(set(drawn)) == 12
    assert {id for id in drawn if id.count("-") == 1} == {f"few-{n}" for n in range(5)}
    assert sum(id.endswith("-3") and id.count("-") == 2 for id in drawn) == 2


def test_a_seed_fixes_the_draw(script, sources, tmp_path):
    texts = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        script.main([str(tmp_path / name), "0.2", f"1:{sources['many']}", "--seed", seed])
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] != texts[2]


def test_shares_must_add_up(script, sources, tmp_path):
    with pytest.raises(ConfigError, match=r"add up to 1, got 0\.5"):
        script.main([str(tmp_path / "out"), "1", f"0.5:{sources['many']}"])


def test_a_source_without_a_share_is_refused(script, sources, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "out"), "1", sources["many"]])
    assert "expected SHARE:MANIFEST" in capsys.readouterr().err
