"""Plan which rank of a pool group owns which expert, from how often each layer used each expert. Pure numpy.

:mod:`traffic` says what a placement costs, :mod:`planner` finds one whose cost is near the least possible, and proves
how near. Moving experts is :mod:`unipool_dist.checkpoint.migrate`'s.
"""
