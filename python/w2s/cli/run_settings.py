"""The settings of a run that its results depend on: what `--resume` compares."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from w2s.cli.plans import option
from w2s.fingerprint import UNKNOWN, identity

if TYPE_CHECKING:
    from w2s.cli.models import Models
    from w2s.cli.rows import Row
    from w2s.cli.styles import Styles
    from w2s.plan import SearchPlan


def run_settings(
    *,
    method: str,
    plan: SearchPlan,
    large: str,
    pair: Sequence[str],
    styles: Styles,
    rows: Sequence[Row],
    loaded: Models | None,
    **options: Any,
) -> dict[str, Any]:
    """Label -> value. options: of the command line, by their names.

    loaded: the models, once they are; what only they tell is `UNKNOWN` before. Neither the size of
    a batch nor the device is among the settings: a row's draws do not depend on them.
    """
    settings: dict[str, Any] = {"--method": method}
    for name, value in dataclasses.asdict(plan).items():
        settings[option(name)] = list(value) if isinstance(value, tuple) else value
    settings.update({option(name): value for name, value in options.items()})
    settings["--large-template"] = styles.large["template"]
    settings["--pair-template"] = styles.pair["template"] if pair else None
    settings["--chat"], settings["--system"] = styles.large["chat"], styles.large["system"]
    for role, name in zip(("large", "tuned", "untuned"), (large, *pair), strict=False):
        place, files = identity(name)
        settings[f"the {role} model"] = place
        settings[f"the files of the {role} model"] = files
    # What --dtype auto stands for differs between devices.
    dtype = UNKNOWN if loaded is None else str(loaded.large.module.dtype)
    settings["the large model's dtype"] = dtype.removeprefix("torch.")
    settings["the input"] = input_digest(rows)
    return settings


def input_digest(rows: Sequence[Row]) -> str:
    """The number of rows and a digest of all their fields."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row.fields).encode() + b"\n")
    return f"{len(rows)} rows (sha256 {found.hexdigest()[:16]})"
