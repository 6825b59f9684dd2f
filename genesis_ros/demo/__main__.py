"""`python -m genesis_ros.demo`."""

import sys

from genesis_ros.demo import main

if __name__ == "__main__":
    sys.exit(main())
