"""Everything a run produced, as data."""

from narrowtune.record.delta_header import Base, Experts, Header, read_header
from narrowtune.record.schema import (
    BASE,
    NOISE_FLOOR,
    SCHEMA_VERSION,
    Cost,
    DataFile,
    DataOrder,
    DivergedRow,
    LedgerRow,
    LossRow,
    Record,
    ReplicateRow,
    Row,
    Score,
    Status,
)
from narrowtune.record.store import (
    RECORD_NAME,
    predictions_path,
    read_record,
    write_predictions,
    write_record,
    write_text_atomically,
)

__all__ = [
    "BASE",
    "NOISE_FLOOR",
    "RECORD_NAME",
    "SCHEMA_VERSION",
    "Base",
    "Cost",
    "DataFile",
    "DataOrder",
    "DivergedRow",
    "Experts",
    "Header",
    "LedgerRow",
    "LossRow",
    "Record",
    "ReplicateRow",
    "Row",
    "Score",
    "Status",
    "predictions_path",
    "read_header",
    "read_record",
    "write_predictions",
    "write_record",
    "write_text_atomically",
]
