"""Parquet files, read with pyarrow as a stream of row groups: one row cannot be had without its group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hart.data.digests import SetDigest, mark_image, mark_shard
from hart.data.samples import (
    WEIGHT_FIELD,
    Columns,
    Damage,
    DamagedSample,
    Sample,
    class_number,
    one_line,
    read_image_field,
    read_record,
)
from hart.errors import HartError

READ_ROWS = 16
"""Rows decoded at a time: pictures are large."""


class ParquetStream:
    """Rows with an image column (bytes, Hugging Face's {"bytes", "path"}, or a path) and caption or label columns."""

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not files:
            raise HartError("no Parquet files: give at least one")
        self._groups: list[tuple[Path, int]] = []
        rows = 0
        names: set[str] | None = None
        for file in files:
            try:
                with pq.ParquetFile(file) as table:
                    here = set(table.schema_arrow.names)
                    groups, count = table.num_row_groups, table.metadata.num_rows
            except FileNotFoundError:
                raise HartError(f"{file}: no such file: copy it there, or take it out of the pattern") from None
            except (pa.ArrowException, OSError) as error:
                raise HartError(f"{file}: no readable Parquet file ({one_line(error)}); copy it again") from None
            if names is not None and here != names:
                raise HartError(f"{file}: its columns differ from those of {files[0]}: read them as two sets")
            names = here
            self._groups += [(file, group) for group in range(groups)]
            rows += count
        assert names is not None
        if WEIGHT_FIELD in names:
            raise HartError(f"{files[0]}: has a column 'weight', which a stream cannot follow: drop it")
        self._columns = columns.resolve(names, str(files[0]))
        self.units = tuple(f"{file}, row group {group}" for file, group in self._groups)
        self.description = f"{len(files)} Parquet files in {files[0].parent}: {rows} rows, {len(self.units)} row groups"

    def read_unit(self, unit: int) -> Iterator[Sample | Damage]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, group = self._groups[unit]
        columns = self._columns
        wanted = [name for name in (columns.image, columns.caption, columns.label) if name]
        row = 0
        try:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=wanted):
                    for record in batch.to_pylist():
                        key = f"{self.units[unit]}, row {row}"
                        row += 1
                        try:
                            note = read_record(record, columns)
                            image = read_image_field(record[columns.image], file.parent)
                        except DamagedSample as error:
                            yield Damage(key, str(error))
                            continue
                        yield Sample(key, image, note.captions, class_number(note.label))
        except FileNotFoundError:
            raise HartError(f"{file}: no such file: it was there when the run began") from None
        except (pa.ArrowException, OSError) as error:
            yield Damage(self.units[unit], f"cannot be read to its end ({one_line(error)})")

    def digest(self) -> str:
        """Images are marked in the bytes of the file, not one by one, but for those that lie beside it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        digest = SetDigest("Parquet")
        for file in dict.fromkeys(file for file, _ in self._groups):
            digest.add(mark_shard(file))
            try:
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(columns=self._small_columns(table.schema_arrow)):
                        for record in batch.to_pylist():
                            image = record.pop(self._columns.image, None)
                            path = image.get("path") if isinstance(image, dict) else image
                            mark = mark_image(file.parent / path) if isinstance(path, str) else b""
                            digest.add(json.dumps(record, sort_keys=True, default=str), mark)
            except (pa.ArrowException, OSError) as error:
                digest.add(one_line(error))
        return digest.hexdigest()

    def _small_columns(self, schema: Any) -> list[str]:
        """All that is read but the images themselves."""
        import pyarrow as pa

        wanted = [name for name in (self._columns.caption, self._columns.label) if name]
        kind = schema.field(self._columns.image).type
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            wanted.append(f"{self._columns.image}.path")
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            wanted.append(self._columns.image)
        return wanted
