import os
from pathlib import Path

import pytest

from otel_ebpf.errors import PreflightError
from otel_ebpf.probe.kernel_types import find_kernel_types

RUNNING = os.uname().release


def headers_of(modules: Path, release: str) -> Path:
    build = modules / RUNNING / "build"
    generated = build / "include/generated"
    generated.mkdir(parents=True)
    (generated / "utsrelease.h").write_text(f'#define UTS_RELEASE "{release}"\n')
    return build


def test_btf_is_preferred_even_where_headers_are(tmp_path: Path):
    headers_of(tmp_path, RUNNING)
    (tmp_path / "vmlinux").write_bytes(b"btf")

    types = find_kernel_types(tmp_path / "vmlinux", tmp_path)

    assert (b"btf", None) == (types.btf, types.headers)


def test_without_btf_headers_of_exactly_this_kernel_are_used(tmp_path: Path):
    build = headers_of(tmp_path, RUNNING)

    types = find_kernel_types(tmp_path / "vmlinux", tmp_path)

    assert (None, build) == (types.btf, types.headers)
    assert RUNNING.encode() in types.evidence


def test_headers_of_another_version_are_refused_and_both_versions_named(tmp_path: Path):
    """They would compile, load, and read the wrong bytes."""
    headers_of(tmp_path, "6.1.0-21-amd64")

    with pytest.raises(PreflightError) as raised:
        find_kernel_types(tmp_path / "vmlinux", tmp_path)

    assert f"are of 6.1.0-21-amd64, not {RUNNING}" in raised.value.what
    assert f"linux-headers-{RUNNING}" in raised.value.remedy


def test_with_neither_the_refusal_names_both(tmp_path: Path):
    with pytest.raises(PreflightError) as raised:
        find_kernel_types(tmp_path / "vmlinux", tmp_path)

    assert str(tmp_path / "vmlinux") in raised.value.what
    assert f"{tmp_path / RUNNING}/build has no headers" in raised.value.what
    assert "CONFIG_DEBUG_INFO_BTF" in raised.value.remedy


def test_headers_that_were_never_configured_are_no_headers(tmp_path: Path):
    (tmp_path / RUNNING / "build").mkdir(parents=True)

    with pytest.raises(PreflightError, match="has no headers"):
        find_kernel_types(tmp_path / "vmlinux", tmp_path)
