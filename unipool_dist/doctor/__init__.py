"""An examination of the machines, network and file system that a run is about to use.

Every rank measures, rank 0 judges. Measuring and judging are apart: what is slow, too far off or too little is decided
by functions of the figures alone.
"""
