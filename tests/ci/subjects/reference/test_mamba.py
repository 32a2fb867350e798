"""The selective scan and the block around it against transformers' Mamba and Mamba-2, in float64; documents, biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus
from transformers.models.mamba import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer, mamba2_chunk_scan

from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.hugging_face.random_model import draw_weights
from ci.subjects.reference import mamba
from ci.subjects.reference.config import Mamba
from ci.subjects.reference.convert_delta import list_mamba
from ci.subjects.reference.delta_rule import convolve_causally
from ci.subjects.reference.mamba import run_mamba, run_selective_scan
from ci.tensor_names import CONTEXT, KEY, QUERY, STEP, VALUE

HIDDEN = 10
BLOCK = Mamba(inner=24, grouped=8, state=4, rank=3, kernel=3, bias=True, convolution_bias=True, step_bias=True)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_weights(mixer: Mamba) -> dict[str, Tensor]:
    parameters = list_mamba("mixer", "mixer", mixer, HIDDEN)
    return {p.name.removeprefix("mixer."): draw(*p.shape, seed=n) / 2 for n, p in enumerate(parameters)}


def run(mixer: Mamba, hidden: Tensor, weights: dict[str, Tensor], documents: Tensor | None = None) -> Tensor:
    return run_mamba(mixer, hidden, documents, weights.__getitem__, lambda *_: None)


def test_the_scan_equals_transformers() -> None:
    """What transformers' block is seen to give its scan, with one head whose B and C all channels share."""
    mixer: Any = MambaMixer(MambaConfig(hidden_size=HIDDEN, intermediate_size=20, state_size=4, time_step_rank=3), 0)
    draw_weights(mixer, 0)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("in_proj", "x_proj", "out_proj"):
        part = getattr(mixer, name)
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    with Float64Mode(), torch.no_grad():
        mixer.double()(draw(2, 30, HIDDEN))
    x, parameters = seen["x_proj"]
    small, b, c = parameters.split_with_sizes([3, 4, 4], dim=-1)
    steps = softplus(linear(small, mixer.dt_proj.weight, mixer.dt_proj.bias))
    gate = seen["in_proj"][1].chunk(2, dim=-1)[1]
    ours = run_selective_scan(x, steps, mixer.A_log, b[:, :, None], c[:, :, None], mixer.D, None) * silu(gate)
    torch.testing.assert_close(ours, seen["out_proj"][0], rtol=1e-11, atol=1e-12)


def test_a_document_begins_without_state_and_past() -> None:
    weights, hidden = make_weights(BLOCK), draw(2, 12, HIDDEN, seed=9)
    packed = run(BLOCK, hidden, weights, torch.tensor([[0] * 5 + [1] * 7, [1] * 12]))
    torch.testing.assert_close(packed[:1, 5:], run(BLOCK, hidden[:1, 5:], weights))
    torch.testing.assert_close(packed[1:], run(BLOCK, hidden[1:], weights))


def test_groups_are_repeated_for_adjacent_heads() -> None:
    """A block whose heads have x and B of their own, each three times the same, answers alike."""
    weights, hidden = make_weights(BLOCK), draw(1, 9, HIDDEN, seed=9)
    gate, x, b, c = weights["in_proj.weight"].split_with_sizes([24, 8, 8, 24])
    gate_bias, x_bias, b_bias, c_bias = weights["in_proj.bias"].split_with_sizes([24, 8, 8, 24])

    def repeat(rows: Tensor) -> Tensor:
        return rows.view(2, 1, 4, *rows.shape[1:]).expand(-1, 3, *[-1] * rows.ndim).reshape(24, *rows.shape[1:])

    wide = {**weights, "in_proj.weight": torch.cat([gate, repeat(x), repeat(b), c])}
    wide["in_proj.bias"] = torch.cat([gate_bias, repeat(x_bias), repeat(b_bias), c_bias])
    torch.testing.assert_close(run(replace(BLOCK, grouped=24), hidden, wide), run(BLOCK, hidden, weights))


def test_the_bias_of_the_steps_counts_twice() -> None:
    weights, hidden = make_weights(BLOCK), draw(1, 9, HIDDEN, seed=9)
    doubled = {**weights, "dt_proj.bias": torch.zeros(24, dtype=torch.float64)}
    doubled["dt_in_proj.weight"] = torch.cat([weights["dt_in_proj.weight"], torch.zeros(1, HIDDEN).double()])
    doubled["dt_in_proj.bias"] = torch.cat([weights["dt_in_proj.bias"], torch.ones(1).double()])
    column = 2 * weights["dt_proj.bias"][:, None]
    doubled["dt_proj.weight"] = torch.cat([weights["dt_proj.weight"], column], dim=1)
    torch.testing.assert_close(run(BLOCK, hidden, doubled), run(BLOCK, hidden, weights))


@pytest.mark.parametrize("off", ["bias", "convolution_bias", "step_bias"])
def test_a_block_without_a_bias_has_no_such_weight(off: str) -> None:
    mixer = replace(BLOCK, **{off: False})
    weights, seen = make_weights(mixer), dict[str, Tensor]()
    assert len(weights) < len(make_weights(BLOCK))
    run_mamba(mixer, draw(1, 5, HIDDEN), None, weights.__getitem__, seen.__setitem__)
    shapes = {name: tuple(tensor.shape) for name, tensor in seen.items()}
    heads = dict.fromkeys((QUERY, KEY, VALUE), (1, 5, 6, 4))
    assert shapes == {**heads, STEP: (1, 5, 24), CONTEXT: (1, 5, 24)}


def make_separate(mixer: Mamba, weights: dict[str, Tensor], head: int) -> Any:
    """Make transformers' block of one head: what it projects from x, our projections give of the input.

    Its steps get the bias once, so that it is doubled; the weight of the gate, and of the output, is of this head.
    """
    state, per = mixer.state, mixer.inner // mixer.state
    group = head // (mixer.inner // mixer.grouped)
    config = MambaConfig(
        hidden_size=HIDDEN,
        intermediate_size=state,
        state_size=state,
        time_step_rank=mixer.rank,
        conv_kernel=mixer.kernel,
        use_bias=mixer.bias,
    )
    block: Any = MambaMixer(config, 0, initialize_mixer_weights=False).double()
    gate, x, b, c = weights["in_proj.weight"].split_with_sizes([mixer.inner, mixer.grouped, mixer.grouped, mixer.inner])
    biases = weights["in_proj.bias"].split_with_sizes([mixer.inner, mixer.grouped, mixer.grouped, mixer.inner])
    own, shared = slice(head * state, (head + 1) * state), slice(group * state, (group + 1) * state)
    assert head < per
    loaded = {
        "in_proj.weight": torch.cat([x[shared], gate[own]]),
        "in_proj.bias": torch.cat([biases[1][shared], biases[0][own]]),
        "conv1d.weight": weights["convolution.weight"][own],
        "conv1d.bias": weights["convolution.bias"][own],
        "x_proj.weight": torch.zeros(mixer.rank + 2 * state, state),
        "dt_proj.weight": weights["dt_proj.weight"][own],
        "dt_proj.bias": 2 * weights["dt_proj.bias"][own],
        "A_log": weights["A_log"][own],
        "D": weights["D"][own],
        "out_proj.weight": weights["out_proj.weight"][:, own],
        "out_proj.bias": torch.zeros(HIDDEN),
    }
    block.load_state_dict(loaded)
    rows = torch.cat([weights["dt_in_proj.weight"], b[shared], c[own]])
    bias = torch.cat([weights["dt_in_proj.bias"], biases[2][shared], biases[3][own]])
    block.x_proj.register_forward_hook(lambda *_: linear(block.given, rows, bias))
    return block


def test_the_block_equals_transformers_block_for_each_head() -> None:
    """Two sequences in one batch, groups of heads, every bias: the sum of one of transformers' blocks a head."""
    weights, hidden = make_weights(BLOCK), draw(2, 33, HIDDEN, seed=9)
    total = weights["out_proj.bias"].expand(2, 33, HIDDEN)
    for head in range(BLOCK.inner // BLOCK.state):
        block = make_separate(BLOCK, weights, head)
        block.given = hidden
        with Float64Mode(), torch.no_grad():
            total = total + block(hidden)
    torch.testing.assert_close(run(BLOCK, hidden, weights), total, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("length", "chunk"), [(7, 8), (8, 8), (9, 8), (40, 8), (33, 5), (12, 1)])
def test_the_scan_equals_the_chunked_one_of_mamba2(length: int, chunk: int) -> None:
    """Mamba-2 has one decay a head, and computes chunk by chunk: the state must cross each border as ours does."""
    heads, size, state, groups = 6, 3, 4, 2
    x, raw = draw(2, length, heads, size, seed=1), draw(2, length, heads, seed=2)
    b, c = (draw(2, length, groups, state, seed=seed) for seed in (3, 4))
    a_log, skip = draw(heads, seed=5), draw(heads, seed=6)
    with Float64Mode():
        theirs = mamba2_chunk_scan(x, raw, -a_log.exp(), b, c, chunk_size=chunk, D=skip, dt_softplus=True)
    steps = softplus(raw).repeat_interleave(size, dim=-1)
    decays = a_log.repeat_interleave(size)[:, None].expand(-1, state)
    ours = run_selective_scan(x.flatten(2), steps, decays, b, c, skip.repeat_interleave(size), None)
    torch.testing.assert_close(ours, theirs.flatten(2), rtol=1e-11, atol=1e-12)


def test_the_scan_equals_that_of_the_whole_block_of_mamba2() -> None:
    """What transformers' Mamba-2 is seen to give its gated norm."""
    config: Any = Mamba2Config(
        hidden_size=HIDDEN, num_heads=4, head_dim=5, expand=2, state_size=3, n_groups=2, chunk_size=8, conv_kernel=3
    )
    mixer: Any = Mamba2Mixer(config, 0)
    draw_weights(mixer, 0)
    mixer, seen = mixer.double(), dict[str, Tensor]()
    mixer.in_proj.register_forward_hook(lambda _, __, out: seen.update(projected=out))
    mixer.norm.register_forward_pre_hook(lambda _, given: seen.update(read=given[0]))
    with Float64Mode(), torch.no_grad():
        mixer(draw(2, 29, HIDDEN))
    _, mixed, raw = seen["projected"].split_with_sizes([20, 20 + 12, 4], dim=-1)
    mixed = silu(convolve_causally(mixed, mixer.conv1d.weight, None, mixer.conv1d.bias))
    x, b, c = mixed.split_with_sizes([20, 6, 6], dim=-1)
    b, c = (tensor.reshape(2, 29, 2, 3) for tensor in (b, c))
    steps = softplus(raw + mixer.dt_bias).repeat_interleave(5, dim=-1)
    decays, skip = mixer.A_log.repeat_interleave(5)[:, None].expand(-1, 3), mixer.D.repeat_interleave(5)
    ours = run_selective_scan(x, steps, decays, b, c, skip, None)
    torch.testing.assert_close(ours, seen["read"], rtol=1e-11, atol=1e-12)


def test_the_scan_is_the_papers_sum() -> None:
    """y_t = sum over s <= t of C_t exp(A sum of the steps after s) B_s step_s x_s, plus D x_t: no state at all."""
    length, channels, state = 9, 4, 3
    x, a_log, skip = draw(1, length, channels, seed=1), draw(channels, state, seed=2), draw(channels, seed=3)
    steps, b, c = draw(1, length, channels, seed=4).exp(), draw(1, length, 2, state, seed=5), draw(1, length, 2, state)
    ours = run_selective_scan(x, steps, a_log, b, c, skip, None)[0]
    until = steps[0].cumsum(0)
    for channel in range(channels):
        head = channel // 2
        for token in range(length):
            kept = (-a_log[channel].exp() * (until[token, channel] - until[: token + 1, channel, None])).exp()
            written = b[0, : token + 1, head] * (steps[0, : token + 1, channel] * x[0, : token + 1, channel])[:, None]
            read = (c[0, token, head] * (kept * written).sum(0)).sum() + skip[channel] * x[0, token, channel]
            torch.testing.assert_close(ours[token, channel], read, rtol=1e-12, atol=1e-12)


def test_a_sequence_is_what_it_is_alone_whatever_stands_beside_it() -> None:
    """Padding before, other rows beside, documents around: one document in three places of one batch."""
    weights, document = make_weights(BLOCK), draw(1, 11, HIDDEN, seed=9)
    other = draw(3, 20, HIDDEN, seed=8) * 3
    alone = run(BLOCK, document, weights)[0]
    hidden, places = other.clone(), ((0, 0), (1, 9), (2, 5))
    numbers = torch.tensor([[0] * 11 + [1] * 9, [0] * 9 + [1] * 11, [0] * 5 + [1] * 11 + [2] * 4])
    for row, start in places:
        hidden[row, start : start + 11] = document[0]
    packed = run(BLOCK, hidden, weights, numbers)
    for row, start in places:
        torch.testing.assert_close(packed[row, start : start + 11], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("wrong", ["state", "convolution"])
def test_a_document_that_reads_the_one_before_it_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two ways into the past makes a packed batch differ: neither test above is empty."""
    weights, hidden = make_weights(BLOCK), draw(1, 12, HIDDEN, seed=9)
    numbers = torch.tensor([[0] * 5 + [1] * 7])
    alone = run(BLOCK, hidden[:, 5:], weights)
    name = {"state": "find_document_starts", "convolution": "convolve_causally"}[wrong]
    right = getattr(mamba, name)
    leak: Any = {
        "state": lambda _, like: right(None, like),
        "convolution": lambda tensor, weight, _, bias: right(tensor, weight, None, bias),
    }[wrong]
    monkeypatch.setattr(mamba, name, leak)
    packed = run(BLOCK, hidden, weights, numbers)[:, 5:]
    assert float((packed - alone).norm() / alone.norm()) > 1e-3
