"""The composition root of the server: everything is made and joined here, and nowhere else.

`application` builds a server and runs it, `serving` is the process around it, `job_effects`
joins jobs with files, datasets, models and the ledger, which do not know each other.
"""
