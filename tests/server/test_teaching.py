"""`asr serve --learn`: a user teaches a small model over HTTP and in Chromium, and goes back."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
from page_browser import chromium, opened, upload
from served import Served, serving
from tones import RATE_HZ, make_texts, make_tones_model, speak

import asr
from asr.cli.main import run_command
from asr.decode.confidence import Calibration, save_calibration
from asr.errors import AsrError, ConfigError, ModelError, OutputError
from asr.server import teaching
from asr.server.catalogue import Catalogue
from asr.server.learning_folder import LearningFolder
from asr.server.problems import WorkerLostError
from asr.server.settings import Settings
from asr.server.teaching import Teacher
from asr.server.wire import WorkerSetup

TOKEN = "let-me-in"
PITCH = 1.1
PATH = "/page-data/teaching"


def wav(text: str, seed: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speak(text, PITCH, seed), RATE_HZ, format="WAV")
    return file.getvalue()


def body_of(texts: list[str], said: list[str] | None = None) -> bytes:
    """Recordings with texts, as the page sends them."""
    parts = []
    for i, (text, words) in enumerate(zip(texts, said or texts, strict=True)):
        sound = wav(words, 100 + i)
        seconds = soundfile.info(io.BytesIO(sound)).duration
        segment = {"start_s": 0.0, "end_s": seconds, "text": text}
        header = {"name": f"{i}.wav", "language": "en", "bytes": len(sound), "segments": [segment]}
        parts += [json.dumps(header).encode() + b"\n", sound]
    return b"".join(parts)


def ask(address: str, method: str, path: str, body: bytes | None = None, token: str = TOKEN) -> tuple[int, Any]:
    request = urllib.request.Request(address + path, body, {"Authorization": f"Bearer {token}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as answer:
        return answer.code, json.loads(answer.read())


def wait_until(condition: Any, what: str, timeout_s: float = 1500.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "T"


def wait_for_state(address: str, *states: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(ask(address, "GET", PATH)[1])
        return found["state"] in states

    wait_until(there, f"state {states}, got {found}")
    return found


def transcribe(address: str, sound: bytes) -> str:
    edge = b"--edge\r\n"
    body = edge + b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + sound + b"\r\n--edge--\r\n"
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "multipart/form-data; boundary=edge"}
    request = urllib.request.Request(f"{address}/v1/audio/transcriptions", body, headers)
    return json.loads(urllib.request.urlopen(request, timeout=120).read())["text"]


@dataclass(frozen=True)
class Taught:
    """A server that has learnt, after it was killed in the midst of that; its model and folder."""

    served: Served
    start: Path
    folder: Path
    learnt: dict[str, Any]

    @property
    def url(self) -> str:
        return self.served.url


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tones"
    make_tones_model(folder)
    return folder


def killed_while_it_learns(folder: Path, options: tuple[str, ...]) -> bool:
    """Start a server that learns, and kill it after the first fold; false where the learning was done by then."""
    with serving(*options) as first:
        assert ask(first.url, "POST", f"{PATH}?consent=yes", body_of(make_texts(10, 2)))[0] == 200
        models = folder / "models"
        wait_until(lambda: any((models / "1.learning").glob("fold*")) or (models / "1").exists(), "a fold is finished")
        children = subprocess.run(["pgrep", "-P", str(first.process.pid)], capture_output=True, text=True).stdout
        for pid in children.split():  # a learner that is nearly done must not end its work behind the server
            os.kill(int(pid), signal.SIGSTOP)
        wait_until(lambda: all(is_stopped(int(pid)) for pid in children.split()), "its processes stand still")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children.split()), "its processes end")
    return not (folder / "models" / "1").exists()


@pytest.fixture(scope="module")
def taught(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    for _ in range(3):  # a learner that was done before it could be stopped shows nothing
        folder = tmp_path_factory.mktemp("learn") / "learn"
        options = ("--model", f"tones={start}", "--learn", str(folder), "--token", TOKEN)
        if killed_while_it_learns(folder, options):
            break
    with serving(*options) as second:
        yield Taught(second, start, folder, wait_for_state(second.url, "learnt", "refused", "failed"))


def test_a_server_that_was_killed_while_it_learnt_learns_and_serves_the_new_model(taught):
    assert taught.learnt["state"] == "learnt", taught.learnt
    assert (taught.learnt["current"], taught.learnt["utterances"]) == (1, 10)
    sound = wav(make_texts(12, 3)[0], 7)
    (taught.folder / "probe.wav").write_bytes(sound)
    new = asr.load(taught.folder / "models" / "1", device="cpu").transcribe(taught.folder / "probe.wav").text
    assert transcribe(taught.url, sound) == new


def test_a_learnt_model_keeps_no_features_of_the_recordings(taught):
    assert not os.path.exists(taught.folder / "models" / "1" / "rehearsal.safetensors")
    assert not list((taught.folder / "models").glob("*.learning"))


def test_what_was_found_is_told_in_words_and_stays_as_json(taught):
    assert "held-out corrections" in taught.learnt["message"]
    assert json.loads((taught.folder / "reports" / "1.json").read_text())["learnt"] is True


def test_nothing_is_stored_without_consent(taught):
    before = ask(taught.url, "GET", PATH)[1]
    status, answer = ask(taught.url, "POST", PATH, body_of(make_texts(1, 2)))
    assert (status, answer["error"]["param"]) == (403, "consent")
    assert ask(taught.url, "GET", PATH)[1]["utterances"] == before["utterances"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_nothing_is_told_or_taken_without_the_token(taught, method):
    assert ask(taught.url, method, f"{PATH}?consent=yes", b"x" if method == "POST" else None, "wrong")[0] == 401


def test_a_body_that_ends_too_early_stores_nothing(taught):
    before = sorted(os.listdir(taught.folder / "corrections"))
    assert ask(taught.url, "POST", f"{PATH}?consent=yes", body_of(make_texts(1, 2))[:-100])[0] == 400
    assert sorted(os.listdir(taught.folder / "corrections")) == before


def test_one_command_goes_back_and_the_running_server_follows(taught, capsys):
    assert run_command(["learn", "--rollback", str(taught.folder)]) == 0
    assert "as it was at first" in capsys.readouterr().out
    wait_until(lambda: ask(taught.url, "GET", PATH)[1]["current"] == 0, "the start is served")
    old = asr.load(taught.start, device="cpu").transcribe(taught.folder / "probe.wav").text
    assert transcribe(taught.url, (taught.folder / "probe.wav").read_bytes()) == old
    LearningFolder(taught.folder).set_current(1)
    wait_until(lambda: ask(taught.url, "GET", PATH)[1]["current"] == 1, "model 1 is served again")


def test_a_number_without_a_model_is_said_and_the_served_model_stays(taught):
    LearningFolder(taught.folder).set_current(99)
    found = wait_for_state(taught.url, "failed")
    assert "expected the number of a folder" in found["message"]
    assert found["current"] == 1
    LearningFolder(taught.folder).set_current(1)
    assert wait_for_state(taught.url, "idle")["message"] == ""


def test_the_button_sends_ticked_paragraphs_after_consent_and_deletes_them_on_request(taught, tmp_path):
    path = tmp_path / "note.wav"
    path.write_bytes(wav("ABC DEF", 5))
    before = ask(taught.url, "GET", PATH)[1]["utterances"]
    with chromium() as browser, opened(browser, taught.url, faults=True, wait=False) as page:
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        upload(page, path)
        page.wait_for_selector("#transcript .word")
        page.keyboard.press("c")
        page.click("#teach")
        page.wait_for_selector("#teach-dialog[open]")
        page.locator("#teach-where", has_text=str(taught.folder)).wait_for()
        assert page.locator("#teach-go").is_disabled()
        page.check("#teach-consent")
        page.click("#teach-go")
        page.locator("#teach-what", has_text="Sent.").wait_for()
        assert ask(taught.url, "GET", PATH)[1]["utterances"] == before + 1
        page.click("#teach-forget")
        page.locator("#teach-stored", has_text="Nothing is stored now.").wait_for()
    assert os.listdir(taught.folder / "corrections") == []


def test_texts_in_another_language_are_refused_with_the_reason(taught):
    texts = make_texts(6, 4)
    russian = ["привет " * 2 for _ in texts]
    assert ask(taught.url, "POST", f"{PATH}?consent=yes", body_of(russian, texts))[0] == 200
    wait_until(lambda: ask(taught.url, "GET", PATH)[1]["state"] == "refused", "it is refused")
    found = ask(taught.url, "GET", PATH)[1]
    assert "cannot be spelt" in found["message"]
    assert found["current"] == 1
    refused = "tones: refused: 0 of 6 corrections can be used; see "
    wait_until(lambda: refused in "".join(taught.served.lines), "the log says so")
    assert "привет" not in "".join(taught.served.lines), "the log has no texts"
    assert "привет" in (taught.folder / "reports" / "2.json").read_text()
    assert ask(taught.url, "DELETE", PATH)[1]["message"] == ""
    assert "привет" not in (taught.folder / "reports" / "2.json").read_text()


def test_a_folder_that_cannot_be_written_is_said_and_the_server_goes_on(taught):
    place = taught.folder / "corrections"
    place.rename(taught.folder / "aside")
    place.write_text("")
    status, answer = ask(taught.url, "POST", f"{PATH}?consent=yes", body_of(make_texts(1, 2)))
    place.unlink()
    (taught.folder / "aside").rename(place)
    assert status == 507
    assert "cannot keep the upload" in answer["error"]["message"]
    assert ask(taught.url, "GET", "/health")[0] == 200


def test_learning_without_a_token_is_refused_at_the_start(start, tmp_path, capsys):
    assert run_command(["serve", "--model", f"tones={start}", "--learn", str(tmp_path / "learn"), "--port", "0"]) == 2
    assert "--learn: expected --token as well" in capsys.readouterr().err


def test_an_export_is_refused_at_the_start(tmp_path):
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(ConfigError, match="got an export, whose weights cannot be changed"):
        teaching._check_start("english", str(tmp_path))


def test_a_folder_of_another_model_is_refused(tmp_path):
    LearningFolder(tmp_path, "english", create=True)
    with pytest.raises(ConfigError, match="that of english"):
        LearningFolder(tmp_path, "an4", create=True)


def test_a_folder_that_another_server_holds_is_refused(taught):
    with pytest.raises(ConfigError, match="another server learns in it"):
        LearningFolder(taught.folder, "tones", create=True)


def test_a_server_that_is_refused_leaves_uploads_of_the_other_one_alone(tmp_path):
    folder = LearningFolder(tmp_path, "an4", create=True)
    with folder.new_zip() as file:
        with pytest.raises(ConfigError, match="another server learns in it"):
            LearningFolder(tmp_path, "an4", create=True)
        file.write(b"x")
    assert len(folder.zips()) == 1


def test_what_is_stored_is_for_the_servers_user_only_and_in_the_order_of_time(tmp_path):
    folder = LearningFolder(tmp_path / "learn", "an4", create=True)
    for number in range(5):
        with folder.new_zip() as file:
            file.write(b"%d" % number)
    assert [path.read_bytes() for path in folder.zips()] == [b"0", b"1", b"2", b"3", b"4"]
    for place in (folder.corrections, folder.models, folder.reports):
        assert place.stat().st_mode & 0o077 == 0


def test_other_weights_under_the_same_name_are_served_and_learn_anew(tmp_path):
    folder = LearningFolder(tmp_path, "mine", weights="a", create=True)
    folder.place(1).mkdir()
    folder.set_current(1)
    folder.note_tried(["x.zip"])
    del folder
    same = LearningFolder(tmp_path, "mine", weights="a", create=True)
    assert (same.current(), same.tried, same.begins_anew) == (1, {"x.zip"}, False)
    del same
    other = LearningFolder(tmp_path, "mine", weights="b", create=True)
    assert (other.current(), other.tried, other.begins_anew) == (0, set(), True)


def test_a_stored_zip_that_is_damaged_is_counted_without_utterances(tmp_path):
    folder = LearningFolder(tmp_path, "an4", create=True)
    with zipfile.ZipFile(folder.corrections / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.jsonl", b"{}" * 1000)
    content = bytearray((folder.corrections / "a.zip").read_bytes())
    content[44:47] = b"\xff\xff\xfe"
    (folder.corrections / "a.zip").write_bytes(content)
    assert (folder.stored().zips, folder.stored().utterances, folder.stored().bytes) == (1, 0, len(content))


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write there"):
        LearningFolder(tmp_path / "file" / "learn", "an4", create=True)


def test_going_back_passes_over_deleted_models_and_ends_at_the_start(tmp_path):
    folder = LearningFolder(tmp_path, "an4", create=True)
    for number in (1, 3):
        folder.place(number).mkdir()
    folder.set_current(3)
    assert folder.roll_back() == (3, 1)
    assert folder.roll_back() == (1, 0)
    with pytest.raises(ModelError, match="as it was at first"):
        folder.roll_back()


def test_one_goes_back_from_a_model_that_was_deleted(tmp_path):
    folder = LearningFolder(tmp_path, "an4", create=True)
    folder.place(1).mkdir()
    folder.set_current(2)
    with pytest.raises(ModelError, match=r"asr learn --rollback .* goes back"):
        folder.current()
    assert folder.roll_back() == (2, 1)
    assert folder.current() == 1


class FakeWorker:
    """A worker as ``swap_everywhere`` sees it. ``failures``: what its next swaps raise."""

    def __init__(self, setup: WorkerSetup, *, ready: bool = True) -> None:
        self.setup, self.ready, self.failures = setup, asyncio.Event(), list[Exception]()
        self.places = dict(setup.models)
        self.unusable: dict[str, str] = {}
        if ready:
            self.ready.set()

    async def swap(self, model: str, place: str) -> None:
        if self.failures:
            raise self.failures.pop()
        self.places[model] = place


def taught_by_fakes(folder: Path, count: int) -> tuple[Teacher, list[FakeWorker]]:
    settings = Settings(models={"an4": "an4"}, learn=str(folder), token=TOKEN)
    catalogue = Catalogue(settings)
    setup = WorkerSetup({"an4": str(catalogue.find(None).path)}, "an4", "cpu", "auto", 1, "model", 60.0)
    workers = [FakeWorker(setup) for _ in range(count)]
    pool: Any = SimpleNamespace(workers=workers)
    return Teacher(settings, catalogue, pool), workers


def test_a_worker_that_loads_while_the_others_swap_is_brought_along(tmp_path):
    async def run() -> None:
        teacher, (one, other) = taught_by_fakes(tmp_path, 2)
        other.ready.clear()
        place = teacher.folder.place(1)
        place.mkdir()
        teacher.folder.set_current(1)
        await teacher._follow()
        assert (one.places["an4"], other.places["an4"]) == (str(place), teacher.start_place)
        other.ready.set()
        await teacher._follow()
        assert other.places["an4"] == str(place)

    asyncio.run(run())


def test_a_swap_is_tried_again_where_a_worker_ended_but_not_where_the_model_is_damaged(tmp_path):
    async def run() -> None:
        teacher, (one, other) = taught_by_fakes(tmp_path, 2)
        teacher.folder.place(1).mkdir()
        teacher.folder.set_current(1)
        place = str(teacher.folder.place(1))
        other.failures = [WorkerLostError("it has ended")]
        with pytest.raises(AsrError, match=r"model 1 .* cannot be served: it has ended"):
            await teacher._follow()
        assert one.places["an4"] == other.places["an4"] == teacher.start_place, "all serve the same model"
        await teacher._follow()
        assert one.places["an4"] == other.places["an4"] == place
        teacher.folder.place(2).mkdir()
        teacher.folder.set_current(2)
        other.failures = [ModelError("no weights")]
        with pytest.raises(AsrError, match="no weights"):
            await teacher._follow()
        await teacher._follow()
        assert (teacher.served, one.places["an4"], other.places["an4"]) == (1, place, place)

    asyncio.run(run())


def test_all_workers_go_back_to_the_start_where_one_finds_its_learnt_model_deleted(tmp_path, capfd):
    async def run() -> None:
        teacher, (one, other) = taught_by_fakes(tmp_path, 2)
        place = teacher.folder.place(1)
        place.mkdir()
        teacher.folder.set_current(1)
        await teacher._follow()
        place.rmdir()
        other.unusable, other.places["an4"] = {"an4": str(place)}, teacher.start_place  # it began again
        with pytest.raises(ModelError, match=r"asr learn --rollback"):
            await teacher._follow()
        assert (teacher.served, one.places["an4"], other.places["an4"]) == (0, teacher.start_place, teacher.start_place)

    asyncio.run(run())
    assert "model 1 of " in (told := capfd.readouterr().err)
    assert "cannot be loaded any more: serving the model as it was at first" in told


def test_a_deleted_model_is_not_named_any_more_where_a_worker_ends_as_all_go_back(tmp_path, capfd):
    async def run() -> None:
        teacher, (one, other) = taught_by_fakes(tmp_path, 2)
        place = teacher.folder.place(1)
        place.mkdir()
        teacher.folder.set_current(1)
        await teacher._follow()
        other.unusable, other.places["an4"] = {"an4": str(place)}, teacher.start_place  # it began again
        one.failures = [WorkerLostError("ended")]
        await teacher._leave_unusable()
        assert teacher.served == 0
        assert one.setup.learnt["an4"] == teacher.start_place  # which its next process loads

    asyncio.run(run())
    assert "cannot be loaded any more: serving the model as it was at first" in capfd.readouterr().err


def test_confidences_of_a_learnt_model_are_not_called_fitted(start, tmp_path):
    shutil.copytree(start, tmp_path / "fitted")
    save_calibration(tmp_path / "fitted", {"greedy": Calibration(1.0, 0.0, 0.0)})
    catalogue = Catalogue(Settings(models={"tones": str(tmp_path / "fitted")}))
    assert catalogue.find("tones").calibrated
    catalogue.note_place("tones", str(start))
    assert not catalogue.find("tones").calibrated


def test_a_fault_in_one_look_does_not_end_the_watch(tmp_path, monkeypatch):
    async def run() -> None:
        teacher, _ = taught_by_fakes(tmp_path, 1)
        looks = []

        async def look() -> None:
            looks.append(1)
            raise ZeroDivisionError("once")

        monkeypatch.setattr(teaching, "POLL_S", 0.001)
        monkeypatch.setattr(teacher, "look", look)
        watch = asyncio.create_task(teacher._run())
        while len(looks) < 3:
            await asyncio.sleep(0.001)
        watch.cancel()
        assert (teacher.state, teacher.message) == ("failed", "ZeroDivisionError: once")

    asyncio.run(asyncio.wait_for(run(), 300))


@pytest.mark.parametrize(
    "arguments",
    [
        ["learn"],
        ["learn", "an4", "x.zip"],
        ["learn", "an4", "x.zip", "--rollback", "d"],
        ["learn", "--rollback", "d", "--dry-run"],
        ["learn", "--rollback", "d", "--json", "r.json"],
    ],
)
def test_the_verb_says_which_arguments_belong_together(arguments, capsys):
    assert run_command(arguments) == 2
    assert "--rollback DIR alone" in capsys.readouterr().err


def test_learning_stands_still_while_streams_lag_and_goes_on_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "CALM_S", 3600.0)
    settings = Settings(models={"an4": "an4"}, learn=str(tmp_path / "learn"), token=TOKEN)
    load = SimpleNamespace(lag_s=1.0)
    pool: Any = SimpleNamespace(workers=[SimpleNamespace(load=load)])
    process = subprocess.Popen(["sleep", "600"])

    def stopped() -> bool:
        return is_stopped(process.pid)

    async def watch() -> None:
        teacher = Teacher(settings, Catalogue(settings), pool)
        teacher._child, teacher.state = SimpleNamespace(process=process), "learning"  # type: ignore[assignment]
        teacher._answer = asyncio.get_running_loop().create_future()  # type: ignore[assignment]
        teacher._pause_or_go_on()
        assert teacher.state == "paused"
        while not stopped():
            await asyncio.sleep(0.02)
        load.lag_s = 0.0
        teacher._pause_or_go_on()
        assert stopped(), "it waits until streams have been calm for a while"
        teacher._calm_since -= teaching.CALM_S
        teacher._pause_or_go_on()
        assert teacher.state == "learning"
        teacher.state = "failed"  # such as for a number that somebody wrote into current.txt
        load.lag_s = 1.0
        teacher._pause_or_go_on()
        while not stopped():
            await asyncio.sleep(0.02)
        load.lag_s = 0.0
        teacher._pause_or_go_on()
        teacher._calm_since -= teaching.CALM_S
        teacher._pause_or_go_on()
        while stopped():
            await asyncio.sleep(0.02)

    try:
        asyncio.run(asyncio.wait_for(watch(), 300))
    finally:
        process.kill()
        process.wait()
