"""An export as a model of MLflow: what `mlflow.pyfunc.load_model` calls. No pickle: this code and the export's own files are all.

Input: a data frame, or a list of rows, with `image` (the bytes of a picture's file, or the same in base64, as a server gets them) and
perhaps `text`. Output: a list with a mapping for each row, as `phasetune predict --json` prints it. A composition root: MLflow enters here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.core.errors import UserError
from tune.core.exports import Query
from tune.exporting.predict import BATCH, Export, check_question


class PyfuncModel:
    """What MLflow wraps."""

    def __init__(self, folder: Path):
        self._export = Export(folder)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A mapping a row: `answer` and, for labels, `shares`; or `error` for a picture that cannot be read.

        Raises UserError for words that the model does not take, or lacks.
        """
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), BATCH):
            found += self._answered(rows[start : start + BATCH])
        return found

    def _answered(self, rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        from trainables.data.decode import BadImage, decode_rgb, quiet

        read: list[Query | str] = []
        with quiet():
            for row in rows:
                text = row.get("text")
                text = text if isinstance(text, str) else None
                problems = check_question(self._export.manifest, text, None)
                if problems:
                    raise UserError(problems)
                try:
                    read.append(Query(decode_rgb(_bytes_of(row.get("image")), self._export.manifest.max_pixels), text))
                except BadImage as error:
                    read.append(str(error))
        queries = [one for one in read if isinstance(one, Query)]
        answers = iter(self._export.answer(queries) if queries else [])
        return [{"error": one} if isinstance(one, str) else _json(next(answers)) for one in read]


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """MLflow's loader: the folder in which MLmodel lies is the export."""
    return PyfuncModel(Path(data_path))


def _bytes_of(image: Any) -> bytes:
    from trainables.data.decode import BadImage

    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    try:
        return base64.b64decode(str(image), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("neither bytes nor base64 of a picture's file") from None


def _json(answer: Any) -> dict[str, Any]:
    return {"answer": answer.text, **({"shares": dict(answer.shares)} if answer.shares else {})}
