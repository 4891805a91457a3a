"""Reads the headers of a tar: where each member lies, and whether the tar is complete.

Python's stream mode ends at the first damaged header without an error, and so loses all members
after it. This reader names the damage and searches in 512-byte steps for the next valid header. It
knows nothing about images.
"""

import io
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple, Protocol

from s4v_core.inputs.tar_headers import Header, decode_name, parse_header
from s4v_core.inputs.unpacking import Unpacked

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar.

    Attributes:
        name: Path in the tar.
        offset: Position of its data in bytes.
        length: Length of its data in bytes.
        whole: False if the tar ends before the member's data does.
        data: As much of its data as the caller asked to keep.
    """

    name: str
    offset: int
    length: int
    whole: bool
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """A damage of a shard, and the byte at which it was found.

    Kinds: not_a_tar, cut_at_boundary (no end mark), cut_in_header, bad_header, zeroed_header,
    cut_in_member, cut_gzip and gzip_bomb (and the same for bz2, xz, zstd), sparse_member,
    unreadable, unsupported_archive; of a folder: cannot_be_listed.
    """

    kind: str
    offset: int


class Link(NamedTuple):
    """A link of a tar, hard or symbolic: another name of the member `target`."""

    name: str
    target: str


@dataclass(slots=True)
class TarIndex:
    """Members in file order, and damages; a tar without damages is proven complete.

    Attributes:
        members: Links are members with the place of what they lead to, behind all others.
        loose_ends: Names of the links that lead to no member.
    """

    members: list[Member] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    loose_ends: list[str] = field(default_factory=list)


class _ForwardFile(Protocol):
    """A file that is read forwards only: the offsets passed to `seek` only grow."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...


_CountKept = Callable[[str, int], int]
"""How many bytes of a member's data are kept, by its name and length."""


def _keep_none(name: str, length: int) -> int:
    return 0


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar without time and owner, so that the tar is the same every time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def index_tar(file: _ForwardFile, size: int, count_kept: _CountKept = _keep_none) -> TarIndex:
    """Index a tar of `size` bytes: read every header, and the data of the members to keep."""
    index, links = TarIndex(), list[Link]()
    for found in _TarWalk(file, size, count_kept):
        if isinstance(found, Damage):
            index.damages.append(found)
        elif isinstance(found, Link):
            links.append(found)
        else:
            index.members.append(found)
    if not index.members and index.damages[:1] and index.damages[0].kind == "not_a_tar":
        del index.damages[1:]  # further damages of a file that is no tar say nothing
    _follow_links(index, links)
    return index


def index_packed_tar(
    file: BinaryIO, compression: str, count_kept: _CountKept = _keep_none
) -> TarIndex:
    """Index a compressed tar; offsets count unpacked bytes. The file is read twice.

    Args:
        compression: As `name_compression` finds it.
    """
    stream = Unpacked(file, compression)
    size = stream.measure_length()
    file.seek(0)
    index = index_tar(Unpacked(file, compression), size, count_kept)
    if stream.problem:
        index.damages.insert(0, Damage(stream.problem, size))
    return index


def _follow_links(index: TarIndex, links: list[Link]) -> None:
    """Make links members of their own; a link may lead to a link that stands behind it."""
    places = {posixpath.normpath(member.name): member for member in index.members}
    waiting, before = links, 0
    while waiting and len(waiting) != before:
        before, links, waiting = len(waiting), waiting, []
        for link in links:
            if target := places.get(posixpath.normpath(link.target)):
                member = replace(target, name=link.name)
                index.members.append(member)
                places.setdefault(posixpath.normpath(link.name), member)
            else:
                waiting.append(link)
    index.loose_ends += [link.name for link in waiting]


class _TarWalk:
    """Iterates over the members, links and damages of a tar; `at` is the position of the next
    header."""

    def __init__(self, file: _ForwardFile, size: int, count_kept: _CountKept) -> None:
        self.file, self.size, self.count_kept, self.at = file, size, count_kept, 0
        self.peeked: tuple[int, bytes] = (-1, b"")
        # Name, target and size that a pax or GNU header gives to the member after it.
        self.name: str | None = None
        self.target: str | None = None
        self.pax_size: int | None = None
        self.searching = False  # for a valid header after a damage
        self.cut = False  # the tar ends inside a member

    def __iter__(self) -> Iterator[Member | Link | Damage]:
        seen_header = ended = False
        while self.at < self.size:
            block = self._read(self.at, BLOCK)
            if len(block) < BLOCK:
                if not ended:
                    yield Damage("cut_in_header", self.at)
                return
            if block == _ZEROS:
                ended, damage = self._read_zero_block(ended)
                if damage:
                    yield damage
                continue
            header = parse_header(block)
            if header is None:
                if not self.searching:
                    yield Damage("bad_header" if seen_header else "not_a_tar", self.at)
                    self.searching = True
                self.name = self.target = self.pax_size = None  # of the member that is lost
                self.at += BLOCK
                continue
            # A valid header after an end mark is an appended tar: continue, as tar -i does.
            self.searching, seen_header, ended = False, True, False
            yield from self._read_member(header)
        if not ended and not self.cut:
            yield Damage("cut_at_boundary" if seen_header else "not_a_tar", self.size)

    def _read_zero_block(self, ended: bool) -> tuple[bool, Damage | None]:
        """Handle a zero block: two of them end a tar; a single one is an overwritten header."""
        start = self.at
        self.at += BLOCK
        if ended or self._read(self.at, BLOCK) == _ZEROS:
            return True, None
        if self.searching or self.at >= self.size:
            return ended, None
        self.searching = True
        return ended, Damage("zeroed_header", start)

    def _read_member(self, header: Header) -> Iterator[Member | Link | Damage]:
        start = self.at + BLOCK
        size = header.size if self.pax_size is None else self.pax_size
        size = 0 if header.type in _WITHOUT_DATA else size
        self.at = start + -(-size // BLOCK) * BLOCK
        whole = start + size <= self.size
        if header.type in _PAX:
            self._read_pax(self._read(start, size) if whole else b"")
        elif header.type == tarfile.GNUTYPE_LONGNAME:
            self.name = decode_name(self._read(start, size).split(b"\0")[0]) if whole else None
        elif header.type == tarfile.GNUTYPE_LONGLINK:
            self.target = decode_name(self._read(start, size).split(b"\0")[0]) if whole else None
        else:
            name, target = self.name or header.name, self.target or header.target
            self.name = self.target = self.pax_size = None
            if header.type == tarfile.GNUTYPE_SPARSE:
                yield Damage("sparse_member", start - BLOCK)
            elif header.type == tarfile.LNKTYPE:
                yield Link(name, target)
            elif header.type == tarfile.SYMTYPE:
                yield Link(name, posixpath.join(posixpath.dirname(name), target))
            elif header.type in _REGULAR and not name.endswith("/"):
                kept = self.count_kept(name, size) if whole else 0
                yield Member(name, start, size, whole, self._read(start, kept) if kept else None)
        if not whole:
            yield Damage("cut_in_member", self.size)
            self.at, self.cut = self.size, True

    def _read_pax(self, data: bytes) -> None:
        """Read path and size from pax records, which have the form `<length> <key>=<value>\\n`."""
        at = 0
        is_sparse = False
        while at < len(data) and (space := data.find(b" ", at)) > 0:
            digits = data[at:space]
            if not digits.isdigit() or int(digits) < 1:
                return
            key, _, value = data[space + 1 : at + int(digits) - 1].partition(b"=")
            if key == b"GNU.sparse.name":  # the path is then a made-up one
                self.name, is_sparse = decode_name(value), True
            elif key == b"path" and not is_sparse:
                self.name = decode_name(value)
            elif key == b"linkpath":
                self.target = decode_name(value)
            elif key == b"size" and value.isdigit():
                self.pax_size = int(value)
            at += int(digits)

    def _read(self, offset: int, length: int) -> bytes:
        if self.peeked[0] == offset and length == BLOCK:  # a stream cannot go back
            return self.peeked[1]
        self.file.seek(offset)
        data = self.file.read(length)
        if length == BLOCK:
            self.peeked = (offset, data)
        return data
