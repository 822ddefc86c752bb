"""Rows of untrusted files: the parsers, which run in a process of their own.

JSON, Parquet and Arrow files come from anywhere, and their parsers are large and not made for malicious files: some
crash. So :mod:`~unipool_dist.base.rows.program` reads them and tells by frames what it has read;
:mod:`unipool_dist.data.sources.apart` starts it and listens. Only the text of a row is ever looked at, and it is never
converted: anything but a string is a fault of the row.

Memory is bounded: files are read and decompressed in pieces, a row may have ``MAX_ROW_BYTES``, a text file
``MAX_TEXT_BYTES``, and the process ``MAX_MEMORY_BYTES``.
"""
