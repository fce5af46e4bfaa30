"""What stands in a folder for sherpa-onnx for people: its README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """# {name} for sherpa-onnx

{purpose}

Licence: {licence}. `card.json` says what the model was trained on, `export.json` has the SHA-256 of every file.
It runs with the unmodified [sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx) 2.0.1 or newer, which needs nothing
of the program that made this folder: `pip install sherpa-onnx`, its Android package, or its WebAssembly build.

| file | for |
|---|---|
{files}

{test}"""

_OFFLINE = """
## Whole recordings

```python
import sherpa_onnx, soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model="omnilingual.onnx", tokens="tokens.txt")
samples, rate = soundfile.read("utterance.wav", dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
```

Android (Kotlin):

```kotlin
val recognizer = OfflineRecognizer(assetManager, OfflineRecognizerConfig(modelConfig = OfflineModelConfig(
    omnilingual = OfflineOmnilingualAsrCtcModelConfig(model = "omnilingual.onnx"), tokens = "tokens.txt")))
val stream = recognizer.createStream()
stream.acceptWaveform(samples, 16000)
recognizer.decode(stream)
val text = recognizer.getResult(stream).text
```

JavaScript (`npm install sherpa-onnx`, which is WebAssembly):

```js
const sherpa = require('sherpa-onnx');

const recognizer = sherpa.createOfflineRecognizer(
    {{modelConfig: {{omnilingual: {{model: './omnilingual.onnx'}}, tokens: './tokens.txt'}}}});
const {{samples, sampleRate}} = sherpa.readWave('utterance.wav');
const stream = recognizer.createStream();
stream.acceptWaveform(sampleRate, samples);
recognizer.decode(stream);
console.log(recognizer.getResult(stream).text);
```

WebAssembly in a browser (`wasm/vad-asr` of sherpa-onnx): put `omnilingual.onnx` and `tokens.txt` into its `assets`,
beside its `silero_vad.onnx`, and write in `app-vad-asr.js`

```js
const modelConfig = {{omnilingual: {{model: './omnilingual.onnx'}}, tokens: './tokens.txt'}};
recognizer = new OfflineRecognizer({{modelConfig}}, Module);
```

The runtime brings each recording to the same level. It counts frames of 20 ms{stretch}.
"""

_STREAMING = """
## Streams

**Feed {tail_s:g} s of silence behind the last sample.** The runtime decodes whole windows only: without it the last
words are lost. The model answers {delay_s:g} s after a sound, and a window of {chunk_s:g} s at a time.

```python
import numpy as np, sherpa_onnx, soundfile

recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens="tokens.txt", model="nemo_ctc.onnx")
samples, rate = soundfile.read("utterance.wav", dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)  # or block by block, as they come
stream.accept_waveform(rate, np.zeros(round({tail_s:g} * rate), np.float32))
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
```

Android (Kotlin):

```kotlin
val recognizer = OnlineRecognizer(assetManager, OnlineRecognizerConfig(modelConfig = OnlineModelConfig(
    neMoCtc = OnlineNeMoCtcModelConfig(model = "nemo_ctc.onnx"), tokens = "tokens.txt")))
val stream = recognizer.createStream()
stream.acceptWaveform(samples, 16000)  // or block by block, as they come
stream.acceptWaveform(FloatArray({tail_samples}), 16000)
stream.inputFinished()
while (recognizer.isReady(stream)) recognizer.decode(stream)
val text = recognizer.getResult(stream).text
```

WebAssembly in a browser (`wasm/asr` of sherpa-onnx 2.0.1 or newer): put `nemo_ctc.onnx` and `tokens.txt` into its
`assets`, and write in `app-asr.js`

```js
const modelConfig = {{nemoCtc: {{model: './nemo_ctc.onnx'}}, tokens: './tokens.txt'}};
recognizer = createOnlineRecognizer(Module, {{modelConfig, enableEndpoint: 1}});
```

An utterance that an endpoint ends needs no silence fed: the pause before the endpoint is long enough.

**Older versions, such as 1.13.8, compute other features for `nemo_ctc.onnx` and get many words wrong, without an
error.** npm's newest version is 1.13.8 (November 2026): there take `encoder.onnx`, as below.
"""

_HOTWORDS = """
## Streams with hot words

`hotwords.txt` has a phrase a line, its tokens with spaces between: `G O R D O N ▁ S M I T H`, where `▁` is the space
between words. The features are Kaldi's, converted to the model's: they are near them, not the same. Feed {tail_s:g} s
of silence behind the last sample.

```python
recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
    tokens="tokens.txt", encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx", model_type="lstm",
    decoding_method="modified_beam_search", modeling_unit="cjkchar", hotwords_file="hotwords.txt", hotwords_score=1.5)
```

Without hot words leave out the last line. Everything else is as above.

JavaScript (`npm install sherpa-onnx`; without hot words):

```js
const sherpa = require('sherpa-onnx');

const transducer = {{encoder: './encoder.onnx', decoder: './decoder.onnx', joiner: './joiner.onnx'}};
const recognizer = sherpa.createOnlineRecognizer(
    {{modelConfig: {{transducer, modelType: 'lstm', tokens: './tokens.txt'}}}});
const {{samples, sampleRate}} = sherpa.readWave('utterance.wav');
const stream = recognizer.createStream();
stream.acceptWaveform(sampleRate, samples);  // or block by block, as they come
stream.acceptWaveform(sampleRate, new Float32Array(Math.round({tail_s:g} * sampleRate)));
stream.inputFinished();
while (recognizer.isReady(stream)) recognizer.decode(stream);
console.log(recognizer.getResult(stream).text);
```
"""

_FILES = {
    "omnilingual.onnx": "whole recordings",
    "nemo_ctc.onnx": "streams",
    "encoder.onnx": "streams with hot words, with `decoder.onnx` and `joiner.onnx`",
    "tokens.txt": "the tokens, for all of them",
    "utterance.wav": "a test recording; `expected.json` has its text",
}


def readme_text(names: Sequence[str], card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The README of a folder with the files ``names``.

    ``facts``: ``stretch`` (a note on frames), and of the streaming graphs ``tail_s``, ``chunk_s``, ``delay_s``;
    ``missing``: why there are none.
    """
    rows = "\n".join(f"| `{name}` | {use} |" for name, use in _FILES.items() if name in names)
    test = "`asr export --verify .` (of recurrent-asr) checks the files and runs the test recording.\n"
    if "utterance.wav" not in names:
        test = "There is no test recording. `asr export --verify .` (of recurrent-asr) checks the files.\n"
    purpose = card.get("purpose", "a speech recogniser; what it is for was not written down").rstrip(".") + "."
    name, licence = card.get("name", "A speech recogniser"), card.get("licence", "not stated: ask who trained it")
    facts = {**facts, "tail_samples": round(facts["tail_s"] * 16000)}
    text = _HEAD.format(name=name, purpose=purpose[:1].upper() + purpose[1:], licence=licence, files=rows, test=test)
    text += _OFFLINE.format(**facts)
    if "nemo_ctc.onnx" in names:
        text += _STREAMING.format(**facts)
    if "encoder.onnx" in names:
        text += _HOTWORDS.format(**facts)
    for what, reasons in facts["missing"].items():
        text += f"\n## Not here: {what}\n\nsherpa-onnx would need another model: {'; '.join(reasons)}.\n"
    return text
