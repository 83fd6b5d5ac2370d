"""Counts ad events exactly once: Kafka in, campaign KPIs in Aerospike, new totals out to Kafka."""
