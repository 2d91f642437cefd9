"""`python -m w2s.cli` is `w2s`."""

import sys

from w2s.cli import main

sys.exit(main())
