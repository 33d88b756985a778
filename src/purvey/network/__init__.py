"""The one way out: what the server fetches for its callers, from hosts the operator named only.

Default-deny. Knows nothing of requests, projects or what the bytes mean; no data-plane process
imports it.
"""
