"""Statement: what was counted in a period, signed, so that it can be checked without this program's store or log."""
