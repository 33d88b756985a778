"""Purvey: large models as a service, on hardware its users own.

Importing this package loads no tensor library; the data plane lives in worker processes.
"""

__version__ = "0.1.0"
