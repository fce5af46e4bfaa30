"""Networks: batch invariance, the backward direction, causality, streaming, shapes."""

import pytest
import torch
import where
from torch import nn

from asr.config.sections import ModelConfig
from asr.errors import ConfigError
from asr.models import scan
from asr.models.acoustic import AcousticModel, Lookahead
from asr.models.cells import LockedDropout, RecurrentLayer, make_cell, reverse_within
from asr.models.subsample import Subsampling

LENGTHS = [37, 1, 4, 20, 5, 36]
TORCH_KINDS = ["rnn", "rnn_relu", "gru", "lstm"]
SCAN_KINDS = ["min_gru", "ssm"]
KINDS = TORCH_KINDS + SCAN_KINDS


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    options = {"hidden": 24, "channels": 4, "layers": 2} | changes
    return AcousticModel(ModelConfig(**options), 80, 7).eval().to(where.DEVICE)


def make_batch(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, 80, generator=generator).to(where.DEVICE) for n in lengths]
    return rows, nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths, device=where.DEVICE)


def test_the_gradient_of_the_reversal_is_the_reversal():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 1, 3])
    assert torch.autograd.gradcheck(lambda x: reverse_within(x, lengths), (x,))
    gradient = torch.randn(3, 5, 2, dtype=torch.float64)
    reverse_within(x, lengths).backward(gradient)
    assert torch.equal(x.grad, reverse_within(gradient, lengths))


def test_reverse_within_reverses_each_row_in_its_own_length():
    x = torch.arange(8.0).reshape(2, 4, 1)
    reversed_rows = reverse_within(x, torch.tensor([3, 1]))[..., 0]
    assert reversed_rows.tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
    assert torch.equal(reverse_within(reverse_within(x, torch.tensor([3, 1])), torch.tensor([3, 1])), x)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("subsampling", "upsampling"), [(2, 1), (4, 1), (4, 3)])
def test_output_does_not_depend_on_batch_mates(kind, bidirectional, subsampling, upsampling):
    options = {"subsampling": subsampling, "upsampling": upsampling, "lookahead": 0 if bidirectional else 2}
    model = make_model(cell=kind, bidirectional=bidirectional, **options)
    rows, padded, lengths = make_batch()
    # Padding full of noise: nothing behind an utterance may reach it.
    noisy = padded.clone()
    for row, length in enumerate(LENGTHS):
        noisy[row, length:] = 100 * torch.randn(noisy.shape[1] - length, 80, device=where.DEVICE)
    with torch.inference_mode():
        batch, frames = model(noisy, lengths)
        for row, features in enumerate(rows):
            alone, count = model(features[None], lengths[row : row + 1])
            expected = upsampling * -(-LENGTHS[row] // subsampling)
            assert frames[row] == count[0] == expected == alone.shape[1]
            torch.testing.assert_close(batch[row, : int(count[0])], alone[0], atol=where.tolerance(1e-4, 1e-3), rtol=0)


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_bidirectional_layer_equals_torch_on_packed_sequences(kind):
    torch.manual_seed(0)
    layer = RecurrentLayer(kind, 5, 6, bidirectional=True)
    nonlinearity = {"rnn_relu": {"nonlinearity": "relu"}}.get(kind, {})
    reference = getattr(nn, kind.split("_")[0].upper())(5, 6, batch_first=True, bidirectional=True, **nonlinearity)
    for name, value in layer.forward_cell.named_parameters():
        getattr(reference, name).data.copy_(value)
    for name, value in layer.backward_cell.named_parameters():
        getattr(reference, f"{name}_reverse").data.copy_(value)
    x, lengths = torch.randn(3, 9, 5), torch.tensor([9, 2, 6])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    output, _ = layer(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(output[row, :length], expected[row, :length], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("subsampling", "upsampling"), [(2, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("blocks", [[1] * 30, [30], [7, 1, 1, 13, 3, 5], [0, 2, 0, 28]])
@pytest.mark.parametrize("lookahead", [0, 1, 3, 20])
def test_unidirectional_stream_equals_offline(kind, subsampling, upsampling, blocks, lookahead):
    options = {"subsampling": subsampling, "upsampling": upsampling, "lookahead": lookahead, "layers": 3}
    model = make_model(cell=kind, bidirectional=False, **options)
    _, features, _ = make_batch([30, 30])
    with torch.inference_mode():
        offline, _ = model(features, torch.tensor([30, 30], device=where.DEVICE))
        state, outputs = None, []
        for block in features.split(blocks, dim=1):
            log_probs, state = model.stream(block, state)
            outputs.append(log_probs)
            done, heard = sum(x.shape[1] for x in outputs), -(-sum(blocks[: len(outputs)]) // subsampling)
            assert done == upsampling * max(0, heard - 2 * lookahead)
        assert state.pending == bool(lookahead)
        log_probs, state = model.stream(features[:, :0], state, last=True)
    assert not state.pending
    torch.testing.assert_close(
        torch.cat([*outputs, log_probs], dim=1), offline, atol=where.tolerance(1e-5, 1e-3), rtol=0
    )


def test_lookahead_is_its_formula_and_sees_no_padding():
    layer = Lookahead(3, 2)
    rows = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    weight, bias = layer.mix.weight, layer.mix.bias
    with torch.no_grad():
        output = layer(rows, torch.tensor([5, 3]))
        for row, length in enumerate([5, 3]):
            for t in range(length):
                later = rows[row, t + 2] if t + 2 < length else torch.zeros(3)
                expected = rows[row, t] + torch.relu(weight @ torch.cat([rows[row, t], later]) + bias)
                torch.testing.assert_close(output[row, t], expected)


def test_bidirectional_model_refuses_to_stream():
    with pytest.raises(ValueError, match="cannot stream"):
        make_model().stream(torch.zeros(1, 8, 80, device=where.DEVICE))


@pytest.mark.parametrize("factor", [2, 4])
def test_subsampling_is_causal_and_loses_no_frame_at_the_start(factor):
    torch.manual_seed(0)
    subsampling = Subsampling(80, 4, factor)
    x = torch.randn(1, 21, 80, requires_grad=True)
    output, _ = subsampling(x)
    assert output.shape == (1, -(-21 // factor), subsampling.output_dim)
    output[0, 2].sum().backward()
    touched = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert touched[-1] == 2 * factor
    assert touched[0] == max(0, 2 * factor - 6 if factor == 4 else 2 * factor - 4)


def test_log_probabilities_are_float32_and_normalised_under_autocast():
    model = make_model()
    _, features, lengths = make_batch()
    with torch.inference_mode(), torch.autocast(where.DEVICE, dtype=torch.bfloat16):
        log_probs, _ = model(features, lengths)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros_like(log_probs[..., 0]), atol=1e-5, rtol=0)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    model = make_model(dropout=0.5)
    _, features, lengths = make_batch()
    assert torch.equal(model(features, lengths)[0], model(features, lengths)[0])
    model.train()
    assert not torch.equal(model(features, lengths)[0], model(features, lengths)[0])


def test_forget_gates_start_open_and_recurrent_weights_orthogonal():
    cell = make_cell("lstm", 5, 8)
    forget = cell.bias_ih_l0[8:16] + cell.bias_hh_l0[8:16]
    assert forget.tolist() == [1.0] * 8
    for gate in cell.weight_hh_l0.split(8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)


# Regularisation


@pytest.mark.parametrize("locked", [True, False])
def test_dropout_is_locked_when_asked(locked):
    model = make_model(locked_dropout=locked)
    kind = LockedDropout if locked else nn.Dropout
    assert all(isinstance(dropout, kind) for dropout in (model.dropout, model.encoder.dropout))


def test_locked_dropout_drops_the_same_units_in_all_frames_of_an_utterance():
    torch.manual_seed(0)
    dropout = LockedDropout(0.4)
    x = torch.ones(50, 7, 60)
    assert dropout.eval()(x) is x
    y = dropout.train()(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
    assert (y == 0).float().mean() == pytest.approx(0.4, abs=0.03)
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_weight_dropout_thins_the_recurrent_weights_in_training_only(kind):
    torch.manual_seed(0)
    layer = RecurrentLayer(kind, 5, 40, bidirectional=True, weight_dropout=0.5)
    plain = RecurrentLayer(kind, 5, 40, bidirectional=True)
    plain.load_state_dict(layer.state_dict())
    x, lengths = torch.randn(2, 6, 5), torch.tensor([6, 3])
    expected, _ = plain(x, lengths)
    torch.testing.assert_close(layer.eval()(x, lengths)[0], expected)
    first, second = (layer.train()(x, lengths)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    # The first step of each direction has no memory yet, so that dropped recurrent weights cannot show.
    torch.testing.assert_close(first[:, 0, :40], expected[:, 0, :40])
    assert not torch.allclose(first[:, 1, :40], expected[:, 1, :40])
    first.sum().backward()
    gradient = layer.forward_cell.weight_hh_l0.grad
    assert gradient is not None
    if kind != "rnn_relu":  # whose silent units get no gradient for other reasons
        assert (gradient == 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_the_middle_layer_speaks_through_the_output_layer():
    model = make_model(layers=3, intermediate_ctc=0.3)
    _, padded, lengths = make_batch()
    with torch.inference_mode():
        last, middle, frames = model.forward_deep(padded, lengths)
        expected, expected_frames = model(padded, lengths)
    torch.testing.assert_close(last, expected)
    assert torch.equal(frames, expected_frames)
    assert middle.shape == last.shape
    torch.testing.assert_close(middle.exp().sum(-1), torch.ones_like(middle[..., 0]))
    # What follows the second of three layers does not enter it.
    with torch.no_grad():
        model.encoder.layers[2].forward_cell.weight_ih_l0.zero_()
        changed_last, changed_middle, _ = model.forward_deep(padded, lengths)
    torch.testing.assert_close(changed_middle, middle)
    assert not torch.allclose(changed_last, last)


def test_projection_and_residual_shape_the_stack():
    model = make_model(layers=3, projection=10, residual=True)
    assert [p.out_features for p in model.encoder.projections] == [10, 10, 10]
    x = torch.randn(2, 5, model.subsampling.output_dim, device=where.DEVICE)
    lengths = torch.tensor([5, 5], device=where.DEVICE)
    with torch.inference_mode():
        plain, _, _ = model.encoder(x, lengths)
        for norm in model.encoder.norms[1:]:  # the later layers say nothing: what is left is the first one's output
            norm.weight.zero_()
        silent, _, _ = model.encoder(x, lengths)
        first, _ = model.encoder.layers[0](x, lengths)
        expected = model.encoder.norms[0](model.encoder.projections[0](first))
    assert plain.shape == (2, 5, 10)
    torch.testing.assert_close(silent, expected)
    assert not torch.allclose(plain, silent)


# Parallel scans


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 13])
def test_the_scan_is_the_recurrence_with_its_gradients(frames):
    torch.manual_seed(frames)
    a = torch.rand(2, frames, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        a[0, frames // 2] = 0  # forgets everything
    b = torch.randn(2, frames, 3, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    h, states = start, []
    for t in range(frames):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    expected = torch.stack(states, dim=1)
    torch.testing.assert_close(scan.linear_scan(a, b, start), expected)
    torch.testing.assert_close(scan.linear_scan(a, b), scan.linear_scan(a, b, torch.zeros_like(start)))
    assert torch.autograd.gradcheck(scan.linear_scan, (a, b, start))


def test_long_scans_stay_exact_where_decays_underflow():
    a = torch.full((1, 4000, 1), 1e-3)
    a[0, ::2] = 1.0
    b = torch.ones(1, 4000, 1)
    h, expected = torch.zeros(1, 1), []
    for t in range(4000):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    torch.testing.assert_close(scan.linear_scan(a, b), torch.stack(expected, dim=1))


def test_min_gru_is_its_formula():
    torch.manual_seed(0)
    cell = scan.MinGRU(4, 3)
    x, h = torch.randn(2, 6, 4), torch.randn(2, 3)
    output, state = cell(x, h)
    weight, bias = cell.gates.weight, cell.gates.bias
    for t in range(6):
        z = torch.sigmoid(x[:, t] @ weight[:3].T + bias[:3])
        h = (1 - z) * h + z * (x[:, t] @ weight[3:].T + bias[3:])
        torch.testing.assert_close(output[:, t], h)
    torch.testing.assert_close(state, h)


def test_the_state_space_layer_is_its_formula():
    torch.manual_seed(0)
    cell = scan.GatedStateSpace(4, 3)
    x, h = torch.randn(2, 6, 4), torch.randn(2, 3)
    output, state = cell(x, h)
    for t in range(6):
        u, d, g = cell.projection(x[:, t]).split(3, dim=1)
        decay = torch.exp(-torch.log1p(torch.exp(d)) * cell.log_rate.exp())
        h = decay * h + (1 - decay) * u
        torch.testing.assert_close(output[:, t], (h + cell.skip * u) * g * torch.sigmoid(g), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, h)


@pytest.mark.parametrize("kind", SCAN_KINDS)
def test_scan_cells_have_no_recurrent_weights_to_drop(kind):
    with pytest.raises(ConfigError, match=rf"model\.recurrent_dropout: expected 0.*{kind}"):
        ModelConfig(cell=kind, recurrent_dropout=0.2)
