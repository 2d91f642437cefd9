"""A row as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping


def json_line(row: Mapping[str, object]) -> str:
    """Readable text where UTF-8 can hold it, without a line end.

    Half of a surrogate pair, which an escape in a prompt may hold, goes out as an escape.
    """
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(row)
    return text
