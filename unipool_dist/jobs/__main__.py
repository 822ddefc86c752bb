"""The program of a job's batch script; see :mod:`unipool_dist.jobs.supervise`."""

import sys

from unipool_dist.jobs.supervise import main

sys.exit(main(sys.argv[1:]))
