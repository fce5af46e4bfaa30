"""A small seeded run of tools/fuzz_audio.py, and that it finds what it is there to find."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fuzz():
    """The tool as a module that other processes can import."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("fuzz_audio")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_damaged_files_give_a_transcript_or_one_clear_error(fuzz, model_dir, tmp_path):
    paths = (fuzz.mutant(tmp_path, number, seed=7) for number in range(120))
    counts, findings = fuzz.check(paths, str(model_dir), limit_s=300.0, memory_mib=700.0)
    assert findings == []
    assert counts["transcript"] > 20
    assert counts["error"] > 20
    assert sum(counts.values()) == 120


def test_mutants_are_the_same_for_a_seed(fuzz, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    made = [[fuzz.mutant(tmp_path / name, number, seed=3).read_bytes() for number in range(12)] for name in ("a", "b")]
    # Ogg streams bear a random serial number, peaks of floats in WAV the time.
    same = [a == b for a, b in zip(*made, strict=True) if b"OggS" not in a and b"PEAK" not in a]
    assert len(same) > 4
    assert all(same)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "crashed"),
        ("time.sleep(600)", "hung"),
        ("raise ValueError('odd')", "raised: ValueError: odd"),
        ("raise asr.AsrError('something is wrong')", "unclear: something"),
        ("self.hold = b'1' * (300 << 20)", "memory rose"),
    ],
)
def test_each_kind_of_trouble_is_found(fuzz, model_dir, tmp_path, monkeypatch, trouble, reason):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import os, time, asr\n"
        "    from asr.recognize.recognizer import Recognizer\n"
        "    plain = Recognizer.transcribe\n"
        "    def transcribe(self, source, **options):\n"
        f"        if str(source).endswith('bad.wav'): {trouble}\n"
        "        return plain(self, source, **options)\n"
        "    Recognizer.transcribe = transcribe\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    for path in (good, bad):
        path.write_bytes((ROOT / "egs" / "sample.wav").read_bytes())
    limit_s = 20.0 if "sleep" in trouble else 300.0
    counts, findings = fuzz.check(iter([good, bad, good]), str(model_dir), limit_s=limit_s, memory_mib=100.0)
    assert counts["transcript"] >= 2
    assert [finding.path.name for finding in findings] == ["bad.wav"]
    assert reason in findings[0].reason
