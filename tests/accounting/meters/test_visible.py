"""CUDA_VISIBLE_DEVICES in all its forms."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from accounting.meters.visible import visible


@dataclass
class Gpu:
    uuid: str | None
    mig: list[str] | None = None


A, B, C = "GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-cccc3333-0000"
MACHINE = [Gpu(A), Gpu(B), Gpu(C, mig=["MIG-11111111-0000", "MIG-22222222-0000"])]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1 , 2 ", [B, C]),
        ("0,2,-1,1", [A, C]),
        ("0,7,1", [A]),
        ("0,,1", [A]),
        ("1,junk,0", [B]),
        ("0x1", []),
        ("0,0", [A]),
        (B, [B]),
        ("GPU-cccc", [C]),
        ("GPU-aaaa", []),
        ("GPU-", []),
        ("GPU-aaaa2,0", [B, A]),
        ("GPU-dddd,0", []),
        (A.removeprefix("GPU-"), []),
        ("MIG-22222222-0000", [C]),
        ("MIG-11111111-0000,MIG-22222222-0000", [C]),
        ("MIG-99999999-0000,0", []),
        (f"MIG-{C}/1/0", [C]),
        ("MIG-GPU-eeee/1/0", []),
    ],
)
def test_the_variable_shows_what_cuda_would_show(value: str | None, shown: list[str]) -> None:
    assert visible(value, MACHINE) == shown


def test_a_gpu_that_does_not_answer_keeps_its_place_in_the_count() -> None:
    machine = [Gpu(A), Gpu(None), Gpu(C)]
    assert visible("2", machine) == [C]
    assert visible("0,1,2", machine) == [A]
    assert visible(None, machine) == [A, C]


def test_one_gpu_needs_more_than_the_word_gpu() -> None:
    assert visible("GPU-", [Gpu(A)]) == []
