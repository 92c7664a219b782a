"""Archives are read, never unpacked: links, devices, escapes and bombs are refused."""

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile

import pytest

from phonosmith.core.errors import InputError
from phonosmith.core.reading import Limits, bare_name, decompress, read_bounded
from phonosmith.reference.importers.archives import is_archive, iter_entries

EVERYTHING = lambda name: True  # noqa: E731


def tar_with(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                content.name = name
                archive.addfile(content)
    return path


def special(kind, link=""):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    return info


def found(path, limits=Limits()):  # noqa: B008
    return {
        entry.name: entry.data if entry.data is not None else entry.refusal
        for entry in iter_entries(path, EVERYTHING, limits)
    }


def tree_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2", "tgz", "tar.lzma", "zip"])
def test_every_format_gives_the_same_content(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    members = [("a/vasprun.xml", b"<x/>"), ("a/OUTCAR.gz", gzip.compress(b"out"))]
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
    elif ending == "tar.lzma":
        plain = tar_with(tmp_path / "plain.tar", members)
        path.write_bytes(lzma.compress(plain.read_bytes(), format=lzma.FORMAT_ALONE))
    else:
        tar_with(
            path, members, {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[ending]
        )
    assert is_archive(path)
    assert found(path) == {"a/vasprun.xml": b"<x/>", "a/OUTCAR": b"out"}


def test_hostile_tar_members_are_refused_and_nothing_is_written(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    path = tar_with(
        inside / "evil.tar",
        [
            ("../escape/vasprun.xml", b"1"),
            ("/etc/vasprun.xml", b"2"),
            ("..\\windows\\vasprun.xml", b"3"),
            ("link/vasprun.xml", special(tarfile.SYMTYPE, "/etc/passwd")),
            ("hard/vasprun.xml", special(tarfile.LNKTYPE, "good/vasprun.xml")),
            ("dev/vasprun.xml", special(tarfile.CHRTYPE)),
            ("pipe/vasprun.xml", special(tarfile.FIFOTYPE)),
            ("good/vasprun.xml", b"good"),
            ("good/vasprun.xml", b"again"),
        ],
    )
    before = tree_of(tmp_path)
    entries = list(iter_entries(path, EVERYTHING))
    assert tree_of(tmp_path) == before
    assert not os.path.exists("/etc/vasprun.xml")
    assert [entry.name for entry in entries if entry.data is not None] == ["good/vasprun.xml"]
    reasons = {entry.name: entry.refusal for entry in entries if entry.refusal}
    assert "leads out of the archive" in reasons["../escape/vasprun.xml"]
    assert "leads out of the archive" in reasons["/etc/vasprun.xml"]
    assert "leads out of the archive" in reasons["..\\windows\\vasprun.xml"]
    assert "link to '/etc/passwd' is not followed" in reasons["link/vasprun.xml"]
    assert "is not followed" in reasons["hard/vasprun.xml"]
    assert "not a regular file" in reasons["dev/vasprun.xml"]
    assert "not a regular file" in reasons["pipe/vasprun.xml"]
    assert reasons["good/vasprun.xml"] == "the name occurs twice"


def test_hostile_zip_members_are_refused(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../vasprun.xml", "1")
        link = zipfile.ZipInfo("link/vasprun.xml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        device = zipfile.ZipInfo("dev/vasprun.xml")
        device.external_attr = (stat.S_IFCHR | 0o777) << 16
        archive.writestr(device, "")
        archive.writestr("ok/vasprun.xml", "fine")
    entries = found(path)
    assert entries["ok/vasprun.xml"] == b"fine"
    assert "leads out" in entries["../vasprun.xml"]
    assert "symbolic link" in entries["link/vasprun.xml"]
    assert "not a regular file" in entries["dev/vasprun.xml"]


SMALL = Limits(member_bytes=1 << 20, total_bytes=4 << 20, ratio=100, ratio_floor=1 << 18)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_bombs_in_tar_members(tmp_path, ending):
    """A member that is itself compressed and unfolds far beyond its size is refused alone."""
    bomb = {"gz": gzip.compress, "xz": lzma.compress}[ending](b"\0" * (8 << 20))
    path = tar_with(tmp_path / "b.tar", [(f"a/vasprun.xml.{ending}", bomb), ("b/vasprun.xml", b"fine")])
    entries = found(path, SMALL)
    assert "unfolds to more than" in entries["a/vasprun.xml"]
    assert entries["b/vasprun.xml"] == b"fine"


def test_bombs_as_archives(tmp_path):
    plain = tar_with(tmp_path / "p.tar", [("vasprun.xml", b"\0" * (3 << 20))])
    path = tmp_path / "b.tar.xz"
    path.write_bytes(lzma.compress(plain.read_bytes()))
    with pytest.raises(InputError, match="decompression bomb"):
        found(path, Limits(ratio=100, ratio_floor=1 << 18))
    with pytest.raises(InputError, match=r"unfolds to more than 1 MiB"):
        found(path, Limits(total_bytes=1 << 20, member_bytes=8 << 20))
    many = tar_with(tmp_path / "many.tar", [(f"{k}/vasprun.xml", b"") for k in range(30)])
    with pytest.raises(InputError, match="more than 20 entries"):
        found(many, Limits(members=20))


def test_zip_bomb(tmp_path):
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vasprun.xml", b"\0" * (8 << 20))
        archive.writestr("ok.xml", b"fine")
    entries = found(path, Limits(ratio=100, ratio_floor=1 << 18))
    assert "decompression bomb" in entries["vasprun.xml"]
    assert entries["ok.xml"] == b"fine"
    assert "limit" in found(path, Limits(member_bytes=1 << 20))["vasprun.xml"]


def test_forged_header_that_announces_gigabytes(tmp_path):
    """A pax header claiming 900 GiB would make tarfile read it into memory."""
    info = tarfile.TarInfo("big")
    info.type, info.size = tarfile.XHDTYPE, 900 << 30
    path = tmp_path / "h.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    with pytest.raises(InputError, match="holds a header of"):
        found(path)


@pytest.mark.parametrize("cut", [100, 700])
@pytest.mark.parametrize("ending", ["tar.gz", "tar.xz", "zip"])
def test_cut_off_archives_say_so(tmp_path, ending, cut):
    path = tmp_path / f"c.{ending}"
    content = os.urandom(3000)
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("vasprun.xml", content)
    else:
        tar_with(path, [("vasprun.xml", content)], f"w:{ending[4:]}")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="is damaged"):
        found(path)


def test_folders_do_not_follow_links_out(tmp_path):
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "vasprun.xml").write_text("secret")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "vasprun.xml").write_text("fine")
    (root / "b.xml").symlink_to(outside / "vasprun.xml")
    (root / "c.xml").symlink_to(root / "a" / "vasprun.xml")
    (root / "linked").symlink_to(outside)
    (root / "dead.xml").symlink_to(tmp_path / "none")
    os.mkfifo(root / "pipe.xml")
    entries = found(root)
    assert entries["a/vasprun.xml"] == b"fine"
    assert entries["c.xml"] == b"fine"
    assert "leads out of the folder" in entries["b.xml"]
    assert "leads out of the folder" in entries["dead.xml"]
    assert entries["pipe.xml"] == "not a regular file"
    assert "linked/vasprun.xml" not in entries


def test_single_files(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x")[:-4])
    with pytest.raises(InputError, match="damaged"):
        read_bounded(tmp_path / "a.gz")
    with pytest.raises(InputError, match="does not exist"):
        read_bounded(tmp_path / "none")
    with pytest.raises(InputError, match="not a regular file"):
        read_bounded(tmp_path)
    with pytest.raises(InputError, match="MiB"):
        read_bounded(tmp_path / "a.gz", Limits(member_bytes=3))
    with pytest.raises(InputError, match="decompression bomb"):
        decompress(gzip.compress(b"\0" * (1 << 20)), "x.gz", SMALL)
    assert bare_name("a/OUTCAR.gz") == "a/OUTCAR"
    assert bare_name("a/OUTCAR") == "a/OUTCAR"
