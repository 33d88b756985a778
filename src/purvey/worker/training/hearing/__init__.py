"""What a run of speech recognition begins with, and what learns in it."""
