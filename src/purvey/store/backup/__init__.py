"""A data folder copied while its server runs, and put back.

Promises that a finished backup holds one moment of the database and every file which that
moment names, each with its SHA-256, and that restoring leaves a whole folder or none. Reads
the data folder only; knows nothing of the server's process, of HTTP or of the terminal.
"""
