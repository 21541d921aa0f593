"""Tiles that were tried out on a GPU: what is kept of them, for whom, and what is believed of the file."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from quantvggt.cli import doctor
from quantvggt.cli.main import main
from quantvggt.core.errors import InputError
from quantvggt.kernels.contract import IntLinear
from quantvggt.kernels.triton import tune, tuned
from quantvggt.kernels.triton.tiles import CANDIDATES, CHIPS, ROWS, Shape, Tile, candidates, linear_tile

GPU = torch.device("cuda", 0)
SHAPE = Shape(ROWS[-1], 1024, 3072, 4, 16)
BEST = next(tile for tile in CANDIDATES if tile not in (CHIPS[90].few, CHIPS[90].many))


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """A GPU that this machine doesn't have, and a cache of its own; gives what renames it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(name="NVIDIA H100", capability=(9, 0)):
        tuned._chip.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    make()
    yield make
    tuned._chip.cache_clear()


def product(rows: int, k: int, n: int, bits: int, rank: int) -> IntLinear:
    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    weight = empty(n, k // 8, dtype=torch.int32) if bits == 4 else empty(n, k, dtype=torch.int8)
    branch = (empty(n, rank, dtype=torch.int8), empty(n)) if rank else (None, None)
    q, scale = empty(rows, k + rank, dtype=torch.int8), empty(rows, 2 if rank else 1)
    return IntLinear(q, scale, weight, empty(n), None, torch.float32, branch=branch[0], branch_scale=branch[1])


def test_kept_tiles_run_for_their_shape_alone(gpu):
    assert tuned.chip(GPU) is CHIPS[90]
    file = tuned.keep(GPU, {SHAPE: BEST})
    assert tuned.file_of(GPU) == file
    chip = tuned.chip(GPU)
    for rows in (ROWS[-2] + 1, ROWS[-1], 10 * ROWS[-1]):
        assert linear_tile(product(rows, 1024, 3072, 4, 16), chip) == BEST
    for other in ((ROWS[-2], 1024, 3072, 4, 16), (9000, 1024, 3072, 8, 16), (9000, 1024, 3072, 4, 0)):
        assert linear_tile(product(*other), chip) == CHIPS[90].many
    assert linear_tile(product(9, 1024, 3072, 4, 16), chip) == CHIPS[90].few


def test_what_another_gpu_found_is_not_used(gpu):
    tuned.keep(GPU, {SHAPE: BEST})
    gpu("NVIDIA H200")
    assert tuned.chip(GPU) is CHIPS[90]
    gpu("NVIDIA H100")
    assert tuned.chip(GPU).tuned == {SHAPE: BEST}


def test_another_version_of_triton_starts_anew(monkeypatch):
    tuned.keep(GPU, {SHAPE: BEST})
    tuned._chip.cache_clear()
    monkeypatch.setattr(tuned.metadata, "version", lambda name: "99.0")
    assert tuned.chip(GPU) is CHIPS[90]


def test_what_is_kept_is_added_to():
    other = SHAPE._replace(rows=ROWS[0])
    tuned.keep(GPU, {SHAPE: BEST})
    tuned.keep(GPU, {other: CANDIDATES[0]})
    assert tuned.chip(GPU).tuned == {SHAPE: BEST, other: CANDIDATES[0]}


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"tiles": 3}', '{"tiles": [3]}', '{"tiles": [[1, 2]]}',
        json.dumps({"tiles": [[*SHAPE, 128, 128, 128, 8, True]]}),
        json.dumps({"tiles": [[*SHAPE, 1 << 20, 128, 128, 8, 3]]}),
        json.dumps({"tiles": [[3, *SHAPE[1:], 128, 128, 128, 8, 3]]}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_ignored_with_one_warning(content):
    file = tuned.file_of(GPU)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.warns(UserWarning, match=str(file)):
        assert tuned.chip(GPU) is CHIPS[90]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuned.chip(GPU) is CHIPS[90]
        tuned.keep(GPU, {SHAPE: BEST})
        assert tuned.chip(GPU).tuned == {SHAPE: BEST}


def test_what_does_not_fit_a_chip_is_not_tried():
    large = Tile(128, 256, 128, 8, 3)
    eight, two_stages = SHAPE._replace(weight_bits=8), 2 * (128 + 256) * 128
    assert large in candidates(eight, replace(CHIPS[90], shared=two_stages))
    assert large not in candidates(eight, replace(CHIPS[90], shared=two_stages - 1))
    few = candidates(SHAPE._replace(rows=ROWS[0]), CHIPS[90])
    assert few
    assert max(tile.rows for tile in few) <= ROWS[0]


def test_the_quickest_that_gives_the_same_wins_and_what_fails_is_said(monkeypatch):
    known = CHIPS[90].many
    broken, wrong, alike, best, *rest = (tile for tile in candidates(SHAPE, CHIPS[90]) if tile != known)
    times = {known: 1.0, alike: 0.97, best: 0.5, wrong: 0.1, **dict.fromkeys(rest, 2.0)}

    def run(step, tile, device):
        if tile == broken:
            raise RuntimeError("out of resource: shared memory\nHint: smaller blocks")
        return torch.full((2,), float(tile == wrong)), times[tile]

    monkeypatch.setattr(tune, "require_runs", lambda device: None)
    monkeypatch.setattr(tune, "sample", lambda shape, device: product(*shape))
    monkeypatch.setattr(tune, "_run", run)
    tuned.keep(GPU, {SHAPE: broken})  # the known tile is the chip's, whatever was found before
    tried = tune.try_out(SHAPE, GPU)
    assert (tried.tile, tried.seconds, tried.known, tried.known_seconds) == (best, 0.5, known, 1.0)
    assert tried.left_out[str(broken)] == "RuntimeError: out of resource: shared memory"
    assert "other results" in tried.left_out[str(wrong)]
    assert len(tried.left_out) == 2
    times[best] = 0.98
    assert tune.try_out(SHAPE, GPU).tile == known, "3% are noise"


def test_without_a_gpu_there_is_nothing_to_tune():
    with pytest.raises(InputError, match="NVIDIA GPUs only"):
        tune.try_out(SHAPE, torch.device("cpu"))


def test_doctor_says_for_how_many_shapes(gpu):
    assert doctor._tiles("cuda:0") == {"device": "cuda:0", "shapes": 0, "file": None}
    file = tuned.keep(GPU, {SHAPE: BEST})
    assert doctor._tiles("cuda:0") == {"device": "cuda:0", "shapes": 1, "file": str(file)}
    gpu(capability=(7, 5))
    assert doctor._tiles("cuda:0")["shapes"] == 0


def test_tuning_a_cpu_is_a_mistake(capsys):
    assert main(["tune", "vggt-nano", "--device", "cpu"]) == 2
    assert "NVIDIA GPUs only" in capsys.readouterr().err
