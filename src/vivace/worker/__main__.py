"""`python -m vivace.worker FD`, started by `EngineClient`."""

import sys

from vivace.worker.process import main

sys.exit(main(sys.argv[1:]))
