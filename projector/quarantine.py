"""Quarantine: records that were not counted, with the reason and their original bytes."""

from projector.log import Message, Record


def message(
    topic: str, source_topic: str, record: Record, verdict: str, reason: str, detail: str, generation: int
) -> Message:
    """The quarantine message of a record. Readers keep the last of a key, so a replay may send it again."""
    headers = {
        "verdict": verdict,
        "reason": reason,
        "topic": source_topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp_ms),
        "generation": str(generation),
        "detail": detail,
    }
    return Message(
        topic,
        f"{source_topic}/{record.partition}/{record.offset}".encode(),
        record.value,
        tuple((name, text.encode(errors="replace")) for name, text in headers.items()),
    )
