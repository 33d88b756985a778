"""`Idempotency-Key`: a creating request that is sent twice has one effect and one answer.

The routes say what is created; this package never looks into it.
"""
