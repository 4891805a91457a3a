import gzip
import io
import tarfile

import pytest

from s4v_core.inputs.tar import BLOCK, TarIndex, index_packed_tar, index_tar
from s4v_core.inputs.unpacking import Unpacked

FILES = {f"{n:03d}.jpg": bytes([n]) * (700 + n) for n in range(6)}


def _tar(kind: int = tarfile.USTAR_FORMAT, files: dict[str, bytes] = FILES) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _index(data: bytes) -> TarIndex:
    return index_tar(io.BytesIO(data), len(data))


def _names(index: TarIndex) -> list[str]:
    return [member.name for member in index.members]


def _kinds(index: TarIndex) -> list[str]:
    return [damage.kind for damage in index.damages]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_whole_tar_is_proven_complete_and_its_ranges_hold_the_members(kind: int) -> None:
    files = FILES | {"long/" * 30 + "name.jpg": b"deep", "猫.jpg": b"cat"}
    if kind == tarfile.USTAR_FORMAT:
        files = FILES
    data = _tar(kind, files)
    index = _index(data)
    assert not index.damages
    assert {m.name: data[m.offset : m.offset + m.length] for m in index.members} == files


def test_a_cut_at_a_member_boundary_is_named() -> None:
    data = _tar()
    third = _index(data).members[3].offset - BLOCK
    index = _index(data[:third])
    assert _names(index) == list(FILES)[:3]
    assert _kinds(index) == ["cut_at_boundary"]


def test_a_cut_inside_a_header_is_named() -> None:
    data = _tar()
    index = _index(data[: _index(data).members[3].offset - 200])
    assert _names(index) == list(FILES)[:3]
    assert _kinds(index) == ["cut_in_header"]


def test_a_cut_inside_a_member_keeps_its_name() -> None:
    data = _tar()
    index = _index(data[: _index(data).members[3].offset + 100])
    assert [(m.name, m.whole) for m in index.members][-1] == ("003.jpg", False)
    assert _kinds(index) == ["cut_in_member"]


def test_a_header_with_any_byte_changed_is_read_as_tarfile_reads_it() -> None:
    data = _tar(files={"a.jpg": b"picture"})
    for at in range(BLOCK):
        for value in (0, 32, 49, 128, data[at] ^ 1):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                header = tarfile.TarInfo.frombuf(changed[:BLOCK], "utf-8", "backslashreplace")
            except tarfile.HeaderError:
                assert not _index(changed).members
            else:
                assert [(m.name, m.length) for m in _index(changed).members] == [
                    (header.name, header.size)
                ]


def test_behind_a_bad_header_the_search_goes_on() -> None:
    data = bytearray(_tar())
    at = _index(bytes(data)).members[2].offset - BLOCK
    data[at + 10] ^= 0xFF
    index = _index(bytes(data))
    assert _names(index) == ["000.jpg", "001.jpg", "003.jpg", "004.jpg", "005.jpg"]
    assert _kinds(index) == ["bad_header"]


def test_behind_a_zeroed_header_the_search_goes_on() -> None:
    data = bytearray(_tar())
    at = _index(bytes(data)).members[2].offset - BLOCK
    data[at : at + BLOCK] = bytes(BLOCK)
    index = _index(bytes(data))
    assert _names(index) == ["000.jpg", "001.jpg", "003.jpg", "004.jpg", "005.jpg"]
    assert _kinds(index) == ["zeroed_header"]


def test_tars_appended_to_each_other_are_read_on_without_damage() -> None:
    index = _index(_tar() + _tar(files={"more.jpg": b"x"}))
    assert _names(index) == [*FILES, "more.jpg"]
    assert not index.damages


def test_a_cut_gzip_keeps_what_was_whole() -> None:
    packed = gzip.compress(_tar(files={f"{n}.jpg": bytes(5000) for n in range(50)}) + b"", 0)
    cut = packed[: len(packed) // 2]
    index = index_packed_tar(io.BytesIO(cut), "gzip")
    assert 20 <= len(index.members) <= 26
    assert "cut_gzip" in _kinds(index)
    assert not index_packed_tar(io.BytesIO(packed), "gzip").damages


def test_a_gzip_bomb_ends_the_shard() -> None:
    bomb = gzip.compress(bytes(200 << 20))
    assert "gzip_bomb" in _kinds(index_packed_tar(io.BytesIO(bomb), "gzip"))


def test_a_file_that_is_no_tar_is_named_so() -> None:
    assert _kinds(_index(b"<html>404</html>" * 100))[:1] == ["not_a_tar"]
    assert _kinds(_index(b"")) == ["not_a_tar"]


def test_folders_and_links_are_no_members() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        tar.addfile(link)
    index = _index(sink.getvalue())
    assert not index.members
    assert not index.damages
    assert index.loose_ends == ["link.jpg"]


def test_links_are_members_with_the_place_of_what_they_lead_to() -> None:
    long_name = "deep/" * 40 + "a.jpg"
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        links = [
            ("x/forward.jpg", tarfile.SYMTYPE, "../b.jpg"),
            ("x/hard.jpg", tarfile.LNKTYPE, long_name),
            ("x/chain.jpg", tarfile.SYMTYPE, "./hard.jpg"),
            ("x/loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
        ]
        for name, data in ((long_name, b"A"), ("b.jpg", b"B")):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(data))
            for one, kind, target in links if data == b"A" else []:
                link = tarfile.TarInfo(one)
                link.type, link.linkname = kind, target
                tar.addfile(link)
    data = sink.getvalue()
    index = _index(data)
    assert {m.name: data[m.offset : m.offset + m.length] for m in index.members} == {
        **{long_name: b"A", "b.jpg": b"B"},
        **{"x/hard.jpg": b"A", "x/chain.jpg": b"A", "x/forward.jpg": b"B"},
    }
    assert index.loose_ends == ["x/loop.jpg"]


class _Forward(io.BytesIO):
    def seek(self, offset: int, whence: int = 0) -> int:
        assert offset >= self.tell(), "a stream cannot go back"
        return super().seek(offset, whence)


def test_data_to_keep_are_kept_on_the_one_way_through() -> None:
    files = {"a.jpg": b"picture", "a.json": b"{}" * 256, "b.txt": b"text"}
    data = _tar(files=files)
    index = index_tar(_Forward(data), len(data), lambda name, size: size * (name[-3:] != "jpg"))
    assert {m.name: m.data for m in index.members} == files | {"a.jpg": None}


def test_many_streams_in_one_file_are_read_to_the_last() -> None:
    data = _tar()
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    for pad in range(0, 40):  # so that a signature lies across the border of two reads
        first = gzip.compress(bytes(range(256)) * 10, 0)
        head = first + b"".join(gzip.compress(piece, 0) for piece in pieces)
        stream = Unpacked(_Piecewise(head, 1 + pad * 97), "gzip")
        assert stream.measure_length() == 2560 + len(data)
        assert stream.problem is None
    stream = Unpacked(io.BytesIO(gzip.compress(data) + b"\0" * 700), "gzip")
    assert (stream.measure_length(), stream.problem) == (len(data), None)
    stream = Unpacked(io.BytesIO(gzip.compress(data) + b"\x1f\x8bdamaged"), "gzip")
    assert (stream.measure_length(), stream.problem) == (len(data), "cut_gzip")


class _Piecewise(io.BytesIO):
    """A file whose reads return at most so many bytes."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self._most)


def test_a_name_of_a_lost_member_is_not_given_to_the_next() -> None:
    data = bytearray(_tar(tarfile.PAX_FORMAT, {"long/" * 40 + "first": b"1", "second.jpg": b"2"}))
    at = data.index(b"long/", 1024)  # the header behind the pax records
    data[at : at + 100] = bytes(100)
    assert _names(_index(bytes(data))) == ["second.jpg"]


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE])
def test_headers_with_an_odd_size_hide_no_member(kind: bytes) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name in FILES:
            odd = tarfile.TarInfo(f"odd-{name}")
            odd.type = kind
            block = bytearray(odd.tobuf(tarfile.USTAR_FORMAT))
            if kind != tarfile.XHDTYPE:
                block[124:136] = b"00000010000\0"
                block[148:156] = b"        "
                block[148:156] = b"%06o\0 " % sum(block)
            sink.write(block)
            tar.offset += len(block)
            member = tarfile.TarInfo(name)
            member.size = len(FILES[name])
            tar.addfile(member, io.BytesIO(FILES[name]))
    assert _names(_index(sink.getvalue())) == list(FILES)
