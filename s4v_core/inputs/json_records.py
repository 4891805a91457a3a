"""ShareGPT4V / LLaVA JSON: reading its records, and the index of the images that they name."""

from collections.abc import Callable, Iterator
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.image_names import NAME_COLUMNS, ImageNames, note_choice
from s4v_core.inputs.json_stream import BadRecord, NoJSONError, Span, read_spans, read_values
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, clean_text, dump_columns
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage
from s4v_core.inputs.text_blocks import TextBlocks

_IMAGE_FIELDS = ("image", "images", *(n for n in NAME_COLUMNS if n not in ("image", "images")))
"""Fields that name the images of a record, in order of preference: LLaVA's own goes first."""


def read_records(
    uri: str,
    damages: list[Damage] | None = None,
    keeps_bad: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Yield the records of a JSON array or of JSON Lines one by one: the released file has 1.5 GB.

    Args:
        damages: Gets the damage at which the records end too early; without it, a damage is an
            error, and so is a line that is no JSON, which is else a BadRecord.
        keeps_bad: Whether such a line is a BadRecord without `damages`, too; then bytes that are
            not UTF-8 are lone surrogates, which the caller finds in their record.
        on_bytes: Called with the number of bytes that have been read, unpacked.

    Raises:
        InputError: It is no JSON array, or it is cut.
    """
    found: list[Damage] = [] if damages is None else damages
    with storage.open_to_read(uri) as file:
        blocks = TextBlocks(file, "surrogateescape" if keeps_bad else "replace")
        try:
            for number, record in enumerate(read_values(blocks, found), 1):
                if on_bytes:
                    on_bytes(blocks.bytes_read)
                if damages is None and not keeps_bad and isinstance(record, BadRecord):
                    raise InputError(uri, f"record {number} is no JSON")
                yield record
        except NoJSONError as error:
            raise InputError(uri, f"not a JSON array of records: {error}") from None
        if damage := blocks.find_damage():
            found[:] = [damage]  # it explains that the JSON is cut
    if damages is None and found:
        problem = f"{found[0].kind} at byte {found[0].offset}"
        raise InputError(uri, f"not a whole JSON array of records: {problem}")


def read_record_spans(uri: str, on_bytes: Callable[[int], None] | None = None) -> Iterator[Span]:
    """Yield the records like `read_records`, each with its text, and last the text behind them.

    Joined, encoded as UTF-8 with "surrogateescape", the texts are the file byte for byte (unpacked,
    if it is compressed). A line that is no JSON is a BadRecord.

    Raises:
        InputError: It is no JSON array in UTF-8, or it is cut.
    """
    damages: list[Damage] = []
    with storage.open_to_read(uri) as file:
        blocks = TextBlocks(file, "surrogateescape", keeps_all=True)
        try:
            for span in read_spans(blocks, damages):
                if on_bytes:
                    on_bytes(blocks.bytes_read)
                yield span
        except NoJSONError as error:
            raise InputError(uri, f"not a JSON array of records in UTF-8: {error}") from None
        if damage := blocks.find_damage():
            damages[:] = [damage]
    if damages:
        problem = f"{damages[0].kind} at byte {damages[0].offset}"
        raise InputError(uri, f"not a whole JSON array of records: {problem}")


def index_json(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image that its records name.

    A record that is no object is a row with the reason `bad_record`, and an image that is no path
    one with `bad_name`. Records without an image are text alone.

    Raises:
        InputError: It is no JSON, or no record has a field for images.
    """
    index = _RecordIndex(shard, account)
    for number, record in enumerate(read_records(shard.uri, account.damages)):
        yield from index.read_record(number, record)
    index.check_fields()


class _RecordIndex:
    """Makes the rows of one JSON, and remembers which images it has named."""

    def __init__(self, shard: Shard, account: ShardAccount) -> None:
        self._shard, self._account = shard, account
        self._names = ImageNames(shard)
        self._seen: set[int] = set()
        self._fields = (shard.image_column,) if shard.image_column else _IMAGE_FIELDS
        self._noted: set[tuple[str, ...]] = set()
        self._other_fields: tuple[str, ...] | None = None
        self._has_field = False

    def read_record(self, number: int, record: Any) -> Iterator[Row]:
        """Yield the rows of one record."""
        if isinstance(record, str):  # a plain list of paths
            self._has_field = True
            record, images = {}, [record]
        elif isinstance(record, dict):
            images = self._list_images(record)
        else:
            yield self._build_problem(number, "bad_record", None)
            return
        if not images:
            self._account.skipped += 1
        for image in images:
            yield from self._read_image(number, image, record)

    def check_fields(self) -> None:
        """Refuse a JSON whose records have no field for images, unless they are conversations.

        Raises:
            InputError: The field has another name.
        """
        if self._has_field or self._other_fields is None:
            return
        if self._shard.image_column or "conversations" not in self._other_fields:
            found = ", ".join(self._other_fields[:20])
            allowed = ", ".join(self._fields)
            raise InputError(self._shard.uri, f"no image field: found {found}, allowed {allowed}")

    def _list_images(self, record: dict[str, Any]) -> list[Any]:
        fields = tuple(name for name in self._fields if name in record)
        if not fields:
            self._other_fields = self._other_fields or tuple(record)
            return []
        self._has_field = True
        if len(fields) > 1 and fields not in self._noted:
            self._noted.add(fields)
            note_choice(fields[0], fields, self._account.notes)
        images = record[fields[0]]
        return images if isinstance(images, list) else [] if images is None else [images]

    def _read_image(self, number: int, image: Any, record: dict[str, Any]) -> Iterator[Row]:
        if isinstance(image, dict):  # as `datasets` and COCO describe an image
            image = next((image[name] for name in NAME_COLUMNS if name in image), None)
        name = clean_text(image) if isinstance(image, str) else image
        uri, problem = self._names.resolve(name)
        payload = dump_columns(record, self._shard.columns)
        if not uri:
            yield self._build_problem(number, problem or "not_found", payload)
            return
        if hash(uri) in self._seen:
            self._account.repeated += 1
            return
        self._seen.add(hash(uri))
        yield build_row(
            image_id=name,
            uri=uri,
            container="file",
            source=self._names.name_source(uri),
            payload=payload,
            problem=problem,
        )

    def _build_problem(self, number: int, problem: str, payload: str | None) -> Row:
        return build_row(
            image_id=f"{self._shard.name}/{number}",
            uri="",
            container="file",
            source=self._names.name_source(""),
            payload=payload,
            problem=problem,
        )
