"""Attention against float64, and against what PyTorch's own bfloat16 attention loses."""

import pytest
import torch

import definition
from quantvggt.core.errors import InputError
from quantvggt.kernels import ops
from quantvggt.nn.rope import rope_tables
from quantvggt.nn.thinned import seen_by_others
from tiny import require_attention

CPU = torch.device("cpu")

# (batch, frames, patch rows and columns, heads, channels of a head): one token, ragged blocks of queries (96) and
# keys (64 or 512), whole ones (192 tokens), several blocks of keys, every head size.
SHAPES = [(1, 1, 0, 2, 64), (2, 3, 4, 3, 32), (1, 2, 10, 2, 64), (3, 1, 16, 1, 128), (1, 9, 11, 1, 64)]
SHAPES += [(1, 32, 1, 2, 64), (1, 2, 14, 1, 32)]


def _inputs(batch, frames, side, heads, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = 5 + side * side
    qkv = torch.randn(batch, frames * tokens, 3 * heads * d, generator=g).bfloat16()
    norms = [torch.rand(d, generator=g) + 0.5, torch.randn(d, generator=g) / 2] * 2
    return qkv, [norm.bfloat16() for norm in norms], rope_tables(side, side, 5, d, CPU)


def _loss(y, truth):
    return ((y.double() - truth).norm() / truth.norm()).item()


def _compare(qkv, heads, norms, rope, eps=1e-5, seen=None):
    require_attention(torch.bfloat16)
    doubles = [None if norm is None else norm.double() for norm in norms]
    truth = definition.attention(qkv.double(), heads, *doubles, eps, *rope, seen)
    pytorch = definition.attention(qkv, heads, *norms, eps, *rope, seen)
    y = ops.attention(qkv, heads, *norms, eps, *rope, seen)
    assert y.dtype == torch.bfloat16
    assert y.shape == (*qkv.shape[:2], qkv.shape[-1] // 3)
    assert _loss(y, truth) <= max(1.2 * _loss(pytorch, truth), 0.003)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_worse_than_pytorch_in_bfloat16(attention_backend, shape):
    qkv, norms, rope = _inputs(*shape)
    _compare(qkv, shape[3], norms, rope)
    _compare(qkv, shape[3], [None] * 4, rope)
    _compare(qkv, shape[3], norms, (None, None), eps=1e-2)
    _compare(qkv, shape[3], [None] * 4, (None, None))
    for without in (1, 3):  # LayerNorm may have no bias
        some = [None if index == without else norm for index, norm in enumerate(norms)]
        _compare(qkv, shape[3], some, rope)
    _compare(qkv, shape[3], [norms[0], None, norms[2], None], (None, None))


def test_threads_change_nothing(attention_backend, threads):
    qkv, norms, rope = _inputs(2, 3, 6, 4, 64)
    before = ops.attention(qkv, 4, *norms, 1e-5, *rope)
    torch.set_num_threads(3 - threads)
    assert torch.equal(before, ops.attention(qkv, 4, *norms, 1e-5, *rope))


def _with_all_masked_at_once(qkv, heads, seen):
    """Thinned attention from its definition: one mask over all pairs of tokens, in float64."""
    q, k, v = qkv.double().unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    frame = torch.arange(q.shape[2]) // len(seen)
    weights = seen.double().repeat(q.shape[2] // len(seen)).masked_fill(frame[:, None] == frame, 0)
    return ((q @ k.mT / q.shape[-1] ** 0.5 + weights).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_thinned_out(attention_backend, shape, stride):
    _, _, side, heads, _ = shape
    qkv, norms, rope = _inputs(*shape)
    seen = seen_by_others(5 + side * side, 5, side, stride, CPU) if side else torch.zeros(5)
    exact = definition.attention(qkv.double(), heads, *[None] * 4, 1e-5, None, None, seen)
    assert _loss(exact, _with_all_masked_at_once(qkv, heads, seen)) < 1e-7  # the weights are float32
    _compare(qkv, heads, [None] * 4, (None, None), seen=seen)
    _compare(qkv, heads, norms, rope, seen=seen)


def test_thinned_out_by_any_weights(attention_backend):
    require_attention(torch.bfloat16)
    g = torch.Generator().manual_seed(0)
    qkv, _, _ = _inputs(2, 7, 5, 2, 64)
    seen = torch.randint(-2, 3, (30,), generator=g).float()
    seen[seen == -2] = -torch.inf
    truth = _with_all_masked_at_once(qkv, 2, seen)
    assert _loss(ops.attention(qkv, 2, *[None] * 4, 1e-5, None, None, seen), truth) < 0.006
    unseen = torch.full((30,), -torch.inf)  # every frame by itself
    frames = ops.attention(qkv.unflatten(1, (7, 30)).flatten(0, 1), 2, *[None] * 4, 1e-5, None, None)
    alone = ops.attention(qkv, 2, *[None] * 4, 1e-5, None, None, unseen)
    assert _loss(alone, frames.view(alone.shape).double()) < 1e-3


@pytest.mark.parametrize("factor", [1e-3, 30.0, 3000.0])
def test_flat_and_peaked_scores(attention_backend, factor):
    qkv, _, _ = _inputs(1, 2, 12, 2, 64)
    qkv[..., :128] *= factor
    _compare(qkv, 2, [None] * 4, (None, None))


@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("place", [0, 600, -1])
def test_the_maximum_may_come_anywhere(attention_backend, place, size):
    qkv, _, _ = _inputs(1, 9, 11, 1, 64)  # three blocks of 512 keys; the second is whole
    qkv[:, place, 64:128] = size * torch.sign(qkv[:, 7, :64])
    _compare(qkv, 1, [None] * 4, (None, None))


# What scores of 64 keys are raised by: e^30 still is a weight beside what came before, e^80 would overflow.
RISES = {
    "up": [0, 10, 30, 30, 110, 111, 200, 290],
    "down": [290, 200, 111, 110, 30, 30, 10, 0],
    "late": [0, 0, 0, 0, 0, 0, 0, 80],
    "once": [0, 0, 80, 0, 0, 0, 40, 0],
    "first": [80, 0, 0, 0, 0, 0, 0, 0],
    "back and forth": [0, 60, 120, 60, 0, 180, 0, 240],
}


@pytest.mark.parametrize("d", [32, 64, 128])
@pytest.mark.parametrize("name", RISES)
def test_scores_that_rise_and_fall(attention_backend, name, d):
    qkv, _, _ = _inputs(1, 1, 22, 1, d)
    tokens = torch.arange(qkv.shape[1])
    qkv[..., 0] = tokens % 3 - 1  # some queries see it upside down, some not at all
    qkv[..., d] = torch.tensor(RISES[name])[(tokens // 64).clamp(max=7)] * d**0.5
    _compare(qkv, 1, [None] * 4, (None, None))


@pytest.mark.parametrize("keys", [32, 64, 480])
@pytest.mark.parametrize("d", [32, 64, 128])
def test_scores_below_all_numbers(attention_backend, keys, d):
    require_attention(torch.bfloat16)
    qkv, _, _ = _inputs(1, 1, 22, 1, d)
    qkv[..., 0] = 3e19 * (torch.arange(qkv.shape[1]) % 2)  # of every second query
    qkv[..., d] = 0
    qkv[:, :keys, d] = -3e19  # the product is -inf in float32
    truth = definition.attention(qkv.double(), 1, *[None] * 4, 1e-5, None, None)
    assert _loss(ops.attention(qkv, 1, *[None] * 4, 1e-5, None, None), truth) < 0.006


def test_equal_keys_average_the_values(attention_backend):
    qkv, _, _ = _inputs(1, 2, 12, 1, 64)
    qkv[..., :128] = 1
    y = ops.attention(qkv, 1, *[None] * 4, 1e-5, None, None)
    mean = qkv[..., 128:].double().mean(dim=1, keepdim=True)
    assert (y.double() - mean).abs().max() < 2e-3


def test_numbers_that_are_none_spread_to_who_looks_at_them(attention_backend):
    qkv, _, _ = _inputs(1, 2, 12, 2, 64)
    qkv[0, 200, 128:192] = float("nan")  # a key of head 0
    y = ops.attention(qkv, 2, *[None] * 4, 1e-5, None, None)
    assert y[..., :64].isnan().all()
    assert y[..., 64:].isfinite().all()


def test_other_types_and_head_sizes_run_in_pytorch(attention_backend):
    for dtype, d, n in ((torch.float32, 64, 9), (torch.bfloat16, 48, 9), (torch.bfloat16, 64, 0)):
        qkv = torch.randn(2, n, 3 * 2 * d, generator=torch.Generator().manual_seed(0)).to(dtype)
        expected = definition.attention(qkv, 2, *[None] * 4, 1e-5, None, None)
        assert torch.equal(ops.attention(qkv, 2, *[None] * 4, 1e-5, None, None), expected)


def test_shapes_that_do_not_fit(attention_backend):
    qkv, norms, rope = _inputs(1, 2, 3, 2, 64)
    with pytest.raises(InputError, match="attention with 5 heads"):
        ops.attention(qkv, 5, *[None] * 4, 1e-5, None, None)
    with pytest.raises(InputError, match="rotary tables"):
        ops.attention(qkv[:, :-1], 2, *norms, 1e-5, *rope)
    with pytest.raises(InputError, match=r"seen is \[P\] for frames of P tokens, got \[13\]"):
        ops.attention(qkv, 2, *norms, 1e-5, None, None, torch.zeros(13))


def test_registered_as_torch_expects(attention_backend):
    qkv, norms, rope = _inputs(1, 2, 3, 2, 64)
    torch.library.opcheck(torch.ops.quantvggt.attention.default, (qkv, 2, *norms, 1e-5, *rope))


def test_compiles(attention_backend):
    qkv, norms, rope = _inputs(1, 2, 3, 2, 64)
    compiled = torch.compile(
        lambda x: ops.attention(2 * x, 2, *norms, 1e-5, *rope) + 1, fullgraph=True, backend="eager"
    )
    with torch.inference_mode():
        assert torch.equal(compiled(qkv), ops.attention(2 * qkv, 2, *norms, 1e-5, *rope) + 1)
