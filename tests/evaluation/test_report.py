"""Making the report: sounds and posteriors, links, what is missing, and what is refused."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli import main
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ManifestError, ModelError
from asr.evaluation.evaluation_file import parse_evaluation, read_evaluation
from asr.evaluation.report import ReportOptions, write_report


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, bursts, write_wav, model_dir):
    """The JSON of an evaluation of four utterances, the last two of them parts of one recording."""
    folder = tmp_path_factory.mktemp("evaluated")
    for i in range(3):
        write_wav(folder / "wav" / f"{i}.wav", bursts(2 + i, seed=i))
    paths = [str(folder / "wav" / f"{i}.wav") for i in (0, 1, 2, 2)]
    utterances = [Utterance(f"u{i}", path, "A B C", 2.0 + i, "ann") for i, path in enumerate(paths[:2])]
    utterances += [Utterance(f"u{2 + i}", paths[2], "D", 1.5, "bob", 2.0 * i, 2.0 * i + 1.5) for i in range(2)]
    manifest.write_manifest(folder / "set.jsonl", utterances)
    status = main.run_command(
        ["evaluate", str(folder / "set.jsonl"), "--model", str(model_dir), "--json", str(folder / "e.json"),
         "--html", str(folder / "e.html")]
    )  # fmt: skip
    assert status == 0
    return folder / "e.json"


def block(page: str, name: str):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)[1])


def content(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def run(*args) -> int:
    return main.run_command(list(map(str, args)))


def test_the_worst_are_embedded_with_sound_and_posteriors(evaluated, tmp_path, recognizer):
    assert write_report([read_evaluation(evaluated)], tmp_path / "p.html") == []
    page = (tmp_path / "p.html").read_text()
    rows = block(page, "data")["utterances"]
    assert [row["i"] for row in rows] == ["u0", "u1", "u2", "u3"]
    for index, row in enumerate(rows):
        media = block(page, f"media-{index}")
        sound, rate_hz = soundfile.read(io.BytesIO(content(media["audio"])))
        assert len(sound) / rate_hz == pytest.approx(row["d"], abs=0.03)
        address, frame_s, tokens = media["picture"]
        width = int.from_bytes(content(address)[16:20], "big")
        assert frame_s == recognizer.frame_s
        assert width * frame_s == pytest.approx(row["d"], abs=2 * frame_s)
        assert tokens[-1] == "blank"


def test_evaluate_writes_the_same_page(evaluated, tmp_path):
    write_report([read_evaluation(evaluated)], tmp_path / "p.html")
    ours, theirs = (block(path.read_text(), "data") for path in (tmp_path / "p.html", evaluated.with_suffix(".html")))
    assert ours["utterances"] == theirs["utterances"]
    assert (ours["groups"], ours["words"]) == (theirs["groups"], theirs["words"])


def test_the_rest_is_linked_to_its_recordings(evaluated, tmp_path):
    write_report([read_evaluation(evaluated)], tmp_path / "p.html", options=ReportOptions(embedded=1))
    page = (tmp_path / "p.html").read_text()
    rows = block(page, "data")["utterances"]
    linked = [row for row in rows if "u" in row]
    assert len(linked) == 3
    assert page.count('id="media-') == 1
    for row in linked:
        assert (tmp_path / row["u"]).resolve().is_file()
        assert row.get("k") == (1 if row["i"] in ("u2", "u3") else None)


def test_a_folder_takes_sounds_and_pictures_of_the_rest(evaluated, tmp_path):
    options = ReportOptions(embedded=1, folder=tmp_path / "linked")
    write_report([read_evaluation(evaluated)], tmp_path / "p.html", options=options)
    rows = block((tmp_path / "p.html").read_text(), "data")["utterances"]
    linked = [row for row in rows if "u" in row]
    assert len(linked) == 3
    for row in linked:
        assert soundfile.info(tmp_path / row["u"]).duration == pytest.approx(row["d"], abs=0.03)
        assert (tmp_path / row["v"][0]).read_bytes().startswith(b"\x89PNG")
        assert "k" not in row


def test_an_unreadable_recording_is_noted_and_the_others_are_there(evaluated, tmp_path):
    tree = json.loads(evaluated.read_text())
    tree["utterances"][1]["audio"] = str(tmp_path / "gone.wav")
    (note,) = write_report([parse_evaluation(tree, "e.json")], tmp_path / "p.html")
    assert note.startswith("1 recordings could not be read and have no sound: u1: ")
    page = (tmp_path / "p.html").read_text()
    assert [index for index in range(4) if f'id="media-{index}"' in page] == [0, 2, 3]
    assert block(page, "data")["notes"] == [note]


def test_without_the_model_there_are_sounds_and_a_note(evaluated, tmp_path):
    tree = json.loads(evaluated.read_text()) | {"model": str(tmp_path / "moved")}
    (note,) = write_report([parse_evaluation(tree, "e.json")], tmp_path / "p.html")
    assert note.startswith("No posteriors: ")
    assert set(block((tmp_path / "p.html").read_text(), "media-0")) == {"audio"}


def test_a_model_that_is_named_must_be_there(evaluated, tmp_path):
    with pytest.raises(ModelError, match="moved"):
        write_report(
            [read_evaluation(evaluated)], tmp_path / "p.html", options=ReportOptions(model=str(tmp_path / "moved"))
        )


def test_old_files_have_no_sounds_and_say_so(tmp_path):
    old = parse_evaluation({"utterances": [{"id": "a", "reference": "GO", "hypothesis": "NO"}]}, "old.json")
    (note,) = write_report([old], tmp_path / "p.html")
    assert "does not name its recordings" in note


def test_a_path_is_never_another_kind_of_address(tmp_path):
    """Of a link, that is: ``javascript:`` in the name of a file is a name."""
    entry = {"id": "a", "reference": "GO", "hypothesis": "NO", "audio": "javascript:alert(1)//x.wav"}
    evaluation = parse_evaluation({"format": 2, "utterances": [entry]}, "e.json")
    write_report([evaluation], tmp_path / "p.html", options=ReportOptions(embedded=0))
    (row,) = block((tmp_path / "p.html").read_text(), "data")["utterances"]
    assert row["u"].startswith("./")
    assert ":" not in row["u"]


def test_texts_cannot_leave_their_element(tmp_path):
    entry = {"id": "</script><b>", "reference": "<!-- SCRIPT --> &amp; \u2028", "hypothesis": "<!--<script>"}
    write_report([parse_evaluation({"utterances": [entry]}, "<i>.json")], tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    data = re.search(r'id="data">(.*?)</script>', page, re.S)[1]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["utterances"][0]["i"] == entry["id"]


def test_two_evaluations_of_other_utterances_are_refused(evaluated, tmp_path):
    other = parse_evaluation({"utterances": [{"id": "x", "reference": "GO", "hypothesis": "NO"}]}, "other.json")
    with pytest.raises(
        ManifestError, match=r"got \d only in \S*e\.json, such as .*; 1 only in other\.json, such as 'x'"
    ):
        write_report([read_evaluation(evaluated)], tmp_path / "p.html", [other])


def test_an_utterance_that_only_one_model_could_transcribe_is_named_with_the_reason(tmp_path):
    entries = [{"id": name, "reference": "GO", "hypothesis": "GO"} for name in ("x", "y")]
    first = parse_evaluation({"utterances": entries[:1], "failures": {"y": "too short"}}, "a.json")
    second = parse_evaluation({"utterances": entries}, "b.json")
    with pytest.raises(
        ManifestError, match=r"1 only in b\.json, such as 'y': a\.json could not transcribe it: too short"
    ):
        write_report([first], tmp_path / "p.html", [second])


def test_two_evaluations_with_other_references_are_refused(tmp_path):
    first, second = (
        parse_evaluation({"utterances": [{"id": "x", "reference": text, "hypothesis": "GO"}]}, f"{text}.json")
        for text in ("A", "B")
    )
    with pytest.raises(ManifestError, match=r"A\.json, B\.json: expected results on the same references"):
        write_report([first], tmp_path / "p.html", [second])


def test_the_command_writes_a_page_and_replaces_it(evaluated, tmp_path, capsys):
    page = tmp_path / "p.html"
    assert run("report", evaluated, page, "--model", "none", "--title", "Mine") == 0
    assert "p.html: 4 utterances" in capsys.readouterr().out
    assert block(page.read_text(), "data")["title"] == "Mine"
    assert run("report", evaluated, page, "--model", "none", "--compare", evaluated) == 0
    assert block(page.read_text(), "data")["comparison"]["difference"] == 0


def test_the_command_refuses_to_write_over_other_files(evaluated, tmp_path, capsys):
    before = evaluated.read_bytes()
    assert run("report", evaluated, evaluated) == 2
    assert "expected the name of a page" in capsys.readouterr().err
    assert evaluated.read_bytes() == before
    (tmp_path / "mine.html").write_text("<p>mine")
    assert run("report", evaluated, tmp_path / "mine.html") == 2
    assert "got a file that this command does not know as its own" in capsys.readouterr().err
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "notes.txt").write_text("mine")
    assert run("report", evaluated, tmp_path / "p.html", "--files", tmp_path / "linked") == 2
    assert "linked: expected a new output" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_each_evaluation_needs_its_counterpart(evaluated, tmp_path, capsys):
    assert run("report", evaluated, tmp_path / "p.html", "--compare", evaluated, "--compare", evaluated) == 2
    assert "--compare: expected 1, one for each evaluation, got 2" in capsys.readouterr().err


def test_evaluate_refuses_a_page_before_the_work(evaluated, tmp_path, capsys, model_dir):
    manifest_path = evaluated.parent / "set.jsonl"
    assert run("evaluate", manifest_path, "--model", model_dir, "--html", tmp_path / "p.txt") == 2
    assert "expected the name of a page" in capsys.readouterr().err


def test_words_outside_the_lexicon_are_those_that_the_search_cannot_write(evaluated, tmp_path, model_dir):
    (tmp_path / "words.txt").write_text("a\nB\n")
    out = tmp_path / "e.json"
    manifest_path = evaluated.parent / "set.jsonl"
    assert run("evaluate", manifest_path, "--model", model_dir, "--lexicon", tmp_path / "words.txt", "--json", out) == 0
    assert json.loads(out.read_text())["words_outside_lexicon"] == ["C", "D"]
    assert json.loads(evaluated.read_text())["words_outside_lexicon"] is None


def test_scores_of_a_search_are_those_of_its_hypotheses(evaluated, model_dir):
    """The acoustic score is the logarithm of the sum over all paths; the bonus of words is the rest."""
    import asr
    from asr.decode.phrase_search import Phrase, score_phrases

    searching = asr.load(model_dir, beam=64, word_bonus=0.5)
    details = read_evaluation(evaluated).details["u0"]
    samples = soundfile.read(details.audio, dtype="float32")[0]
    found = searching.transcribe(samples)
    log_probs, frames = searching.log_probs([samples])
    (best,) = searching.decoder.decode(log_probs, frames)
    (total,) = score_phrases(log_probs[0], [Phrase(found.text, (best.tokens,))])[0]
    assert found.acoustic_score == pytest.approx(total, abs=0.1)
    assert found.lm_score == pytest.approx(0.5 * len(found.words))
    assert np.isfinite(found.acoustic_score)


def test_the_page_is_one_file_without_addresses(evaluated):
    page = Path(evaluated.with_suffix(".html")).read_text()
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(", outside)
