"""Logs and metrics. Holds no content of users: fields and labels are closed lists."""
