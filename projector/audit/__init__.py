"""Audit: the topic recounted by a path of its own, held against the ledger, the rows' totals and what was published."""
