"""The command that measures: its result, its table, and two results side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import full_size_controls, full_size_load, gpu, measuring
from benchmarks.__main__ import PARTS, SECTIONS, main, revision
from benchmarks.card import LAUNCHES, Card, by_kind, kind_of

ROOT = Path(__file__).parent.parent


def test_a_result_has_figures_and_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert main(["--only", "planned", "--side", "64", "--repeats", "1", "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["matmul"]["float32"] > 0
    assert found["convolution"]["bfloat16"] > 0
    for kind, most in found["ceiling"].items():
        assert found["convolution"][kind] < 3 * most, "much faster than the processor can be"
    planned = found["planned_fp16"]["16x40x64"]
    assert f"{planned['peak_bytes'] / 2**30:.2f} GiB" in shown
    assert planned["peak_bytes_streamed"] < planned["peak_bytes"] < planned["goal_bytes"]

    assert main(["--compare", str(file), str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("planned_fp16 16x72x128 peak_bytes ") and row.endswith("1.000") for row in rows)


def test_a_machine_without_git_measures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert revision(ROOT) == ""


def test_the_command_knows_everything_that_can_be_measured() -> None:
    assert tuple(gpu.SECTIONS) == SECTIONS
    assert tuple(measuring.PARTS) == PARTS


QUICK = ("peaks", "vc2_320x512", "video_t2v_576x1024", "attention", "decode", "small_card", "windows")


def test_what_is_measured_on_a_gpu_runs_anywhere_at_tiny_sizes(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert main(["--tiny", "--only", *QUICK, "--out", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert "error" not in json.dumps(found)
    assert all(found[section]["section_seconds"] > 0 for section in QUICK)
    for way in ("plain", "fused", "fused_2_texts"):
        measured = found["vc2_320x512"][way]
        assert measured["seconds"] > 0
        assert measured["tflops"] > 0
    assert found["vc2_320x512"]["plain"]["profile"]["kinds"]["convolutions"]["kernels"] > 0
    assert found["vc2_320x512"]["relative_difference"]["float32_repeated"] < 1e-5
    assert found["video_t2v_576x1024"]["balanced_caches"]["is_finite"]
    assert found["attention"]["text_320x512"]["math"]["relative_difference"] < 1e-5
    assert found["decode"]["t2v_576x1024"]["fused"]["seconds"] > 0


def test_sections_are_saved_one_by_one_and_left_out_where_the_time_is_short(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    card = Card(torch.device("cpu"), file, limit=100)
    with card.section("first", 10) as there_is:
        assert there_is
        card.note("first", "part", seconds=1.0)
        assert json.loads(file.read_text(encoding="utf-8"))["first"]["part"] == {"seconds": 1.0}
        raise ValueError("no such kernel")
    with card.section("second", 1000) as there_is:
        assert not there_is
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["first"]["error"] == "ValueError: no such kernel"
    assert found["first"]["part"] == {"seconds": 1.0}
    assert "1000" in found["second"]["left_out"]


KERNELS = {
    "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64": "matrix products",
    "nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT": "matrix products",
    "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128>>": "attention",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16": "attention",
    "_by_matrices": "attention",
    "sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc": "convolutions",
    "void cudnn::ops::nchwToNhwcKernel<__half, __half, float>": "layout changes",
    "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::Half, float>": "norms",
    "_group_statistics": "norms",
    "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>": "copies",
    "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>": "elementwise",
    "_geglu": "elementwise",
}


def test_kernels_are_counted_by_kind() -> None:
    assert {name: kind_of(name) for name in KERNELS} == KERNELS
    found = by_kind([("_geglu", 1.0, 2), ("nvjet_hsh", 3.0, 5)])
    assert found["kernels"] == 7
    assert found["milliseconds"] == 4.0
    assert list(found["kinds"]) == ["matrix products", "elementwise"]
    assert found["kinds"]["matrix products"] == {"milliseconds": 3.0, "share": 0.75, "kernels": 5}
    calls = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync"]
    assert all(LAUNCHES.match(call) for call in calls)
    assert not LAUNCHES.match("cudaStreamSynchronize")


def test_the_files_of_controls_at_full_size_are_those_of_the_manifests(tmp_path: Path) -> None:
    for name, case in full_size_controls.CASES.items():
        for file in case.files.values():
            shapes = file.shapes()
            assert shapes, name
            assert not any(key.startswith("embedder.model.") for key in shapes if file.cut)
        assert all(control in case.made for control in case.files if not control.startswith("base"))
    shapes = {"blocks.1/norm.weight": [[4], "float32"], "blocks.1/proj.weight": [[2, 4], "float32"]}
    full_size_load.write_checkpoint(shapes, tmp_path / "made.pth", "bfloat16", nested=True)
    made = torch.load(tmp_path / "made.pth", weights_only=True)
    assert {module: sorted(state) for module, state in made.items()} == {"blocks.1": ["norm.weight", "proj.weight"]}
    assert made["blocks.1"]["proj.weight"].dtype is torch.bfloat16
    assert 0 < float(made["blocks.1"]["proj.weight"].float().abs().max()) <= 0.5
    assert float((made["blocks.1"]["norm.weight"].float() - 1).abs().max()) < 0.1
