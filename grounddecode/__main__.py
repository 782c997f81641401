"""`python -m grounddecode`: the same as the command `grounddecode`."""

import sys

from grounddecode.cli import main

sys.exit(main())
