"""`python -m fedhealth`."""

import sys

from fedhealth.cli import main

sys.exit(main())
