"""What is collected to learn from: rows, profiles and versions of datasets, feedback on answers."""
