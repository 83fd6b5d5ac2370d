"""Repair: what an audit found is put right from the topic and the ledger, by the same apply as everything else."""
