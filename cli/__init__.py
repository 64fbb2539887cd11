"""The command line: one file per command, installed as `synthsr`."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
