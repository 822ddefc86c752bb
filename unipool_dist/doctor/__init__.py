"""Examination of the machines, network and file system that a run is about to use.

Every rank measures, rank 0 judges. The two are separate: what counts as slow, too far off or too little is decided by
pure functions of the measurements.
"""
