"""What a run will take, and how many frames fit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import quantvggt as qv
from families import FAMILIES
from quantvggt.checkpoint.load import load, outline
from quantvggt.core.errors import InputError
from quantvggt.core.memory import peak_memory
from quantvggt.models import VGGT, Model
from quantvggt.reconstruction import predict
from quantvggt.reconstruction.long import estimate as module
from quantvggt.reconstruction.long import rate
from quantvggt.reconstruction.long.estimate import BYTES_PER_PIXEL, SCRATCH, Estimate, estimate, largest_chunk, plan
from quantvggt.reconstruction.long.rate import rate_of, remember_rate
from quantvggt.reconstruction.long.run import Chunking
from quantvggt.scenes.synthetic import make_path
from tiny import tiny_model

SIZE = (112, 112)


def test_weights_are_known_before_they_are_loaded() -> None:
    for name in ("vggt-nano", "vggt-nano-heavy"):
        for dtype in (None, "mixed"):
            told, real = outline(name, dtype), load(name, dtype)
            types = {key: value.dtype for key, value in real.state_dict().items()}
            assert {key: value.dtype for key, value in told.state_dict().items()} == types
            assert told.products == real.products


def test_the_memory_is_what_a_run_takes() -> None:
    model, clip = load("vggt-nano"), make_path(1, 12, 0.3)
    predict.reconstruct(model, clip)  # what libraries take once is no part of it
    with peak_memory() as peak:
        predict.reconstruct(model, clip)
    if peak.bytes is None:
        pytest.skip("this system doesn't measure peaks of memory")
    told = model.working_bytes(12, *SIZE) + 12 * BYTES_PER_PIXEL * SIZE[0] * SIZE[1]
    assert 0.5 < told / peak.bytes < 2, "of freed pieces that the allocator keeps there may be any number"


def test_the_largest_chunk_fits_and_one_more_does_not() -> None:
    model = outline("vggt-nano")
    memory = 300_000_000
    frames = largest_chunk(model, 1000, SIZE, memory)
    needs = [estimate(model, count, SIZE, None, 1.0).bytes for count in (frames, frames + 1)]
    assert needs[0] <= memory < needs[1]
    assert largest_chunk(model, frames - 1, SIZE, memory) == frames - 1


def test_too_little_memory_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match="allow more memory"):
        largest_chunk(outline("vggt-nano"), 10, SIZE, SCRATCH)


def test_chunks_are_planned_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = outline("vggt-nano")
    monkeypatch.setattr(module, "available_bytes", lambda: 10**12)
    assert plan(model, 300, SIZE) is None
    assert plan(model, 300, SIZE, chunk=24) == Chunking(24, 8)
    assert plan(model, 10, SIZE, chunk=24) is None
    monkeypatch.setattr(module, "available_bytes", lambda: 300_000_000)
    short = plan(model, 300, SIZE)
    assert short.size == largest_chunk(model, 300, SIZE, 270_000_000)
    with pytest.raises(InputError, match="--chunk 200"):
        plan(model, 300, SIZE, chunk=200)
    monkeypatch.setattr(module, "available_bytes", lambda: None)
    assert plan(model, 300, SIZE) is None


def test_more_frames_take_longer_and_chunks_less_than_all_at_once() -> None:
    model = outline("vggt-nano")
    whole, half = (estimate(model, count, SIZE, None, 1e9).seconds for count in (300, 150))
    assert whole > 2 * half, "attention grows with the square"
    chunked = estimate(model, 300, SIZE, Chunking(24, 8), 1e9)
    assert chunked.seconds < whole
    assert chunked.bytes < estimate(model, 300, SIZE, None, 1e9).bytes
    assert str(chunked).startswith("about 0.")


def test_the_rate_of_the_last_run_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "cache_folder", lambda: tmp_path)
    model = outline("vggt-nano")
    remember_rate(model, 4, SIZE, 2.0)
    at = (4, SIZE, torch.device("cpu"))
    assert rate_of(model, *at) == (pytest.approx(model.operations(4, *SIZE) / 2), True)
    with torch.device("meta"):
        larger = VGGT(replace(model.config, depth=model.config.depth + 1))
    fast = outline("vggt-nano")
    fast.attention = "fast"
    rounded = outline("vggt-nano")
    rounded.attention_bits = 8
    for other in (larger, fast, rounded, outline("vggt-nano", torch.bfloat16)):
        assert not rate_of(other, *at).timed, "of another model, or run in another way"
    (tmp_path / "rates.json").write_text("[]")
    guessed = rate_of(model, *at)
    assert guessed.per_second > 0
    assert not guessed.timed


def quantized() -> VGGT:
    return qv.quantize(tiny_model(), "w4a4", "rtn", rest="w4a8", progress=False)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("make", [*FAMILIES.values(), quantized], ids=[*FAMILIES, "quantized"])
def test_before_a_run_the_rate_is_guessed_from_a_block_of_the_model(
    make: Callable[[], Model], mixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two frames that take half a second in one thread of three."""
    monkeypatch.setattr(rate, "cache_folder", lambda: tmp_path)
    qv.save(make(), tmp_path / "model")
    model = outline(tmp_path / "model", "mixed" if mixed else None)
    seen, threads = list[torch.Tensor](), torch.get_num_threads()

    def measured(runs: Mapping[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
        assert torch.get_num_threads() == 1
        seen.extend(run() for run in runs.values())
        return dict.fromkeys(runs, 0.5)

    monkeypatch.setattr(rate, "measure", measured)
    torch.set_num_threads(3)
    try:
        found = rate_of(model, 2, (56, 56), torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    tokens, dim = model.trunk.special + 16, seen[0].shape[-1]
    assert seen[0].shape == (2, tokens, dim)
    assert bool(seen[0].isfinite().all()), "as a layer computes, no numbers that were never set"
    linear, attention = 24 * dim**2 * 2 * tokens, 4 * dim * 2 * tokens**2
    assert found == (pytest.approx(rate.SHARE_OF_BLOCK * 3 * (linear + attention) / 0.5), False)


def test_of_many_frames_no_more_than_a_thousand_tokens_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "cache_folder", lambda: tmp_path)
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(rate, "measure", lambda runs: {"": shapes.append(tuple(runs[""]().shape)) or 1.0})
    for count, size in ((300, (112, 112)), (300, (504, 504)), (1, (504, 504))):
        rate_of(outline("vggt-nano"), count, size, torch.device("cpu"))
    assert [shape[0] * shape[1] <= 1024 or shape[0] == 1 for shape in shapes] == [True] * 3
    assert [shape[0] for shape in shapes] == [1024 // 69, 1, 1]
    assert shapes[1][1] == 36 * 36 + 5


def test_where_the_blocks_are_a_familys_own_a_product_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "cache_folder", lambda: tmp_path)
    model = outline("vggt-nano")
    model.aggregator.frame_blocks[0] = torch.nn.Identity()
    monkeypatch.setattr(rate, "measure", lambda runs: {"": 2.0 / runs[""]().shape[0]})
    found = rate_of(model, 4, SIZE, torch.device("cpu"))
    per_second = rate.SHARE_OF_PRODUCT * 1024**4 * torch.get_num_threads()
    assert found == (pytest.approx(per_second), False)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (8.2, "8 s"), (59.4, "59 s"), (90, "1.5 min"), (3600, "60 min")]
)
def test_times_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert str(Estimate(1_250_000_000, seconds)) == f"about 1.2 GB and {told}"


def test_on_a_gpu_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gpu = outline("vggt-nano"), torch.device("cuda", 0)
    monkeypatch.setattr(module, "available_bytes", lambda: 1)
    monkeypatch.setattr(module, "gpu_available_bytes", lambda device: 300_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100_000_000)
    short = plan(model, 300, SIZE, device=gpu)
    assert short.size == largest_chunk(model, 300, SIZE, 270_000_000)
    capped = plan(model, 300, SIZE, 350_000_000, device=gpu)
    assert capped.size == largest_chunk(model, 300, SIZE, 225_000_000), "what is held there already is part of it"
    assert plan(model, 300, SIZE, 10**10, device=gpu) == short, "a cap makes no memory"
