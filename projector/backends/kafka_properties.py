"""Which properties of the Kafka client the protocol owns; importable without the client."""

OWNED_PROPERTIES = frozenset(
    {
        # who a worker is, and what it is fenced by
        "transactional.id",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "partition.assignment.strategy",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        # offsets are committed in the transaction, and nothing is skipped or read early
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "isolation.level",
        "enable.partition.eof",
        "check.crcs",
        # the same key must always go to the same partition, or compaction keeps two last words
        "partitioner",
        # how the client talks to this program
        "delivery.report.only.error",
        "plugin.library.paths",
        "error_cb",
        "log_cb",
        "log.queue",
        "logger",
        "on_commit",
        "on_delivery",
        "stats_cb",
        "throttle_cb",
    }
)
