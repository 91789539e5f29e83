"""Content is what it claims to be, and nothing unsafe is stored: with real disk images."""

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from calotype.stores.images.inspecting import Claim, ContentRefused
from calotype.stores.images.opening import open_driver
from calotype.stores.images.pipe import Written, write

pytestmark = pytest.mark.slow

CD = Path("/usr/lib/grub-rescue/grub-rescue-cdrom.iso")
VIRTUAL_BYTES = 12 << 20


def _qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A disk without a partition table in every format that qemu-img writes."""
    folder = tmp_path_factory.mktemp("disks")
    raw = folder / "raw"
    raw.write_bytes((b"calotype" * 512 + b"\0" * 4096) * (VIRTUAL_BYTES // 8192))
    made = {"raw": raw.read_bytes(), "iso": CD.read_bytes()}
    for name, kind, options in (
        ("qcow2", "qcow2", []),
        ("qcow2 compressed", "qcow2", ["-c"]),
        ("vhd", "vpc", ["-o", "force_size=on"]),
        ("vhdx", "vhdx", []),
        ("vdi", "vdi", []),
        ("vmdk", "vmdk", ["-o", "subformat=monolithicSparse"]),
        ("vmdk streamOptimized", "vmdk", ["-o", "subformat=streamOptimized"]),
        ("qed", "qed", []),
    ):
        target = folder / "disk"
        _qemu_img("convert", "-f", "raw", "-O", kind, *options, str(raw), str(target))
        made[name] = target.read_bytes()
        target.unlink()
    base = folder / "base.qcow2"
    _qemu_img("create", "-q", "-f", "qcow2", str(base), "1M")
    chained = folder / "chained"
    _qemu_img("create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(chained))
    made["qcow2 on a backing file"] = chained.read_bytes()
    # The flag alone, set by hand: qemu-img would create and truncate the file that it names.
    outside = bytearray(made["qcow2"])
    outside[79] |= 0b100
    made["qcow2 with a data file"] = bytes(outside)
    unknown = bytearray(made["qcow2"])
    unknown[72] |= 0b1000_0000
    made["qcow2 with unknown features"] = bytes(unknown)
    flat = folder / "flat.vmdk"
    _qemu_img(
        "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", str(raw), str(flat)
    )
    made["vmdk monolithicFlat"] = flat.read_bytes()
    return made


async def _store(
    folder: Path, data: bytes, claim: Claim | None, chunk_bytes: int = 700_001
) -> Written:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), chunk_bytes):
            yield data[start : start + chunk_bytes]

    driver = open_driver("file", {"directory": str(folder)})
    return await write(driver, "key", chunks(), size_bytes=None, limit_bytes=None, claim=claim)


@pytest.mark.parametrize(
    ("disk", "claim", "virtual_bytes"),
    [
        ("raw", "raw", VIRTUAL_BYTES),
        ("qcow2", "qcow2", VIRTUAL_BYTES),
        ("qcow2 compressed", "qcow2", VIRTUAL_BYTES),
        ("vhd", "vhd", VIRTUAL_BYTES),
        ("vhdx", "vhdx", VIRTUAL_BYTES),
        ("vdi", "vdi", VIRTUAL_BYTES),
        ("vmdk", "vmdk", VIRTUAL_BYTES),
        ("vmdk streamOptimized", "vmdk", VIRTUAL_BYTES),
        ("iso", "iso", None),
        ("raw", "ami", None),
    ],
)
async def test_content_of_the_claimed_format_is_stored_with_its_virtual_size(
    disks: Any, tmp_path: Path, disk: str, claim: str, virtual_bytes: int | None
) -> None:
    written = await _store(tmp_path, disks[disk], Claim(claim))
    assert written.virtual_size == virtual_bytes
    assert written.size_bytes == len(disks[disk])


@pytest.mark.parametrize(
    ("disk", "claim"),
    [
        ("raw", "qcow2"),
        ("qcow2", "vmdk"),
        ("iso", "qcow2"),
        ("qcow2", "ami"),
        ("qed", "raw"),
        ("qcow2 on a backing file", "qcow2"),
        ("qcow2 on a backing file", "raw"),
        ("qcow2 with a data file", "qcow2"),
        ("qcow2 with a data file", "raw"),
        ("qcow2 with unknown features", "qcow2"),
        ("vmdk monolithicFlat", "vmdk"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [64 << 20, 5_000])
async def test_wrong_or_unsafe_content_is_refused_and_leaves_nothing(
    disks: Any, tmp_path: Path, disk: str, claim: str, chunk_bytes: int
) -> None:
    data = disks[disk] if chunk_bytes > len(disks[disk]) else disks[disk][: 3 << 20]
    with pytest.raises(ContentRefused):
        await _store(tmp_path, data, Claim(claim), chunk_bytes)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


async def test_a_mismatch_may_be_tolerated_but_never_unsafe_content(
    disks: Any, tmp_path: Path
) -> None:
    written = await _store(tmp_path / "1", disks["raw"], Claim("qcow2", must_match=False))
    assert written.virtual_size is None
    with pytest.raises(ContentRefused):
        await _store(
            tmp_path / "2", disks["qcow2 on a backing file"], Claim("qcow2", must_match=False)
        )


async def test_no_claim_no_look(disks: Any, tmp_path: Path) -> None:
    written = await _store(tmp_path, disks["qcow2 on a backing file"], None)
    assert written.virtual_size is None


async def test_an_empty_body_is_an_empty_raw_disk_and_no_other(tmp_path: Path) -> None:
    for name in ("raw", "ami", "ploop"):
        assert (await _store(tmp_path / name, b"", Claim(name))).virtual_size is None
    for name in ("qcow2", "iso", "vmdk", "vdi", "vhd", "vhdx"):
        with pytest.raises(ContentRefused, match="not recognised"):
            await _store(tmp_path / name, b"", Claim(name))
        assert not [path for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert (await _store(tmp_path, b"", Claim("qcow2", must_match=False))).virtual_size is None
