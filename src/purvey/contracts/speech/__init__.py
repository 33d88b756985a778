"""Speech: values of what is asked about recordings, and answered."""
