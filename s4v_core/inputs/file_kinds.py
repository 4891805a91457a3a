"""Kinds of files by their names: containers of images, images, their companions, or unknown."""

from urllib.parse import urlsplit

from s4v_core import storage

CONTAINERS = {
    "targz": (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    "tar": (".tar",),
    "zip": (".zip",),
    "parquet": (".parquet",),
    "json": (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz"),
    "list": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"),
    "archive": (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".tar.lz4"),
}
"""Endings of the container files of each kind; the first match counts. A `targz` is a tar that is
compressed in any way; an `archive` cannot be read."""

_LAST_ENDINGS = {
    ending[ending.rindex(".") :] for endings in CONTAINERS.values() for ending in endings
}

NAMED_KINDS = ("json", "list")
"""Kinds of containers that only count if the input names the file: in a folder they accompany
images."""

SIDECARS = ("json", "txt")
"""Endings of the members and files whose text is kept with the image of the same key."""

MAX_SIDECAR_BYTES = 1 << 20
"""Longer sidecars are not read: a plan of many of them would not fit into memory."""

_IMAGES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "dib", "tif", "tiff", "webp"),
        # Formats that are not decoded. Such a file is an image all the same, and gets a row.
        *("avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "j2c", "jpf", "jpx", "mpo", "ico"),
        *("pbm", "pgm", "ppm", "pnm", "pfm", "tga", "psd", "svg", "exr", "hdr", "qoi", "sgi"),
        *("pdf", "eps"),
        *(
            "xcf",
            "dds",
            "fli",
            "flc",
            "pcx",
            "dng",
            "cr2",
            "cr3",
            "nef",
            "arw",
            "orf",
            "raf",
            "rw2",
        ),
    )
)

_COMPANIONS = frozenset(
    (
        *("arrow", "caption", "ckpt", "cls", "conf", "csv", "db", "feather", "h5", "hdf5"),
        *("html", "idx", "index", "ini", "ipynb", "json", "jsonl", "lock", "log", "mat", "md"),
        *("msgpack", "ndjson", "npy", "npz", "parquet", "pb", "pickle", "pkl", "pt", "pth", "py"),
        *("rst", "safetensors", "sh", "sqlite", "srt", "tags", "tfrecord", "toml", "tsv", "txt"),
        *("vtt", "xlsx", "xml", "yaml", "yml", "flac", "m4a", "mp3", "ogg", "opus", "wav"),
        *("avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "webm"),
    )
)

HEAD_BYTES = 64
"""Bytes of a file that show whether it is an image (`starts_as_image`)."""

_STARTS = (
    *((0, b"\xff\xd8\xff"), (0, b"\x89PNG"), (8, b"WEBP"), (0, b"GIF8"), (0, b"BM")),
    *((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    # Formats that are not decoded: AVIF, HEIC, JPEG XL, JPEG 2000, Photoshop, icons, Netpbm.
    *((4, b"ftypavi"), (4, b"ftyphei"), (4, b"ftypmif"), (0, b"\xff\x0a"), (4, b"JXL ")),
    *((4, b"jP  "), (0, b"\xff\x4f\xff\x51"), (0, b"8BPS"), (0, b"\0\0\1\0"), (0, b"qoif")),
    *((0, b"P%d\n" % number) for number in range(1, 8)),
)
"""Position and bytes of the signatures of image formats."""


def find_container(name: str) -> tuple[str, str] | None:
    """The kind of a container file and its ending, by its name; None if it is none."""
    lower = name.lower()
    if lower[lower.rfind(".") :] not in _LAST_ENDINGS:
        return None
    for kind, endings in CONTAINERS.items():
        if ending := next((ending for ending in endings if lower.endswith(ending)), None):
            return kind, ending
    return None


def is_image(name: str) -> bool:
    """Whether a name says that the file is an image."""
    return find_ending(name) in _IMAGES


def is_companion(name: str) -> bool:
    """Whether a name says that the file is none, but accompanies images."""
    return find_ending(name) in _COMPANIONS or storage.base_name(name).startswith("._")


def starts_as_image(head: bytes) -> bool:
    """Whether a file with these first HEAD_BYTES bytes is an image, whatever its name."""
    return any(head.startswith(mark, at) for at, mark in _STARTS)


def find_ending(name: str) -> str:
    """The part of a file's name after its last dot, in lower case; empty if there is none."""
    stem, _, ending = storage.base_name(name).rpartition(".")
    return ending.lower() if stem else ""


def split_name(name: str) -> tuple[str, str]:
    """A file's key and ending (`sa_1.2.jpg` -> `sa_1.2`, `jpg`; `.hidden` has no ending)."""
    ending = find_ending(name)
    return name[: -len(ending) - 1] if ending else name, ending


def relative_name(uri: str, folder: str) -> str:
    """The path of `uri` relative to `folder`, without the query of a web address."""
    return cut_query(uri).removeprefix(folder.rstrip("/") + "/")


def cut_query(uri: str) -> str:
    """A URI without the query of a web address, which may be a signature."""
    if not storage.is_web(uri):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
