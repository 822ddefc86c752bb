"""Programs of this project that tests start, without the seconds that each would spend importing torch.

With ``pytest --preloaded``, ``subprocess.Popen`` of ``python -m unipool_dist ...`` in a test, and in what that starts,
becomes a fork of a process that has imported everything and done nothing else (:mod:`server`). The fork is the child of
the caller, with a process id, a session, a command line and an environment of its own (:mod:`becoming`); it runs the
module as ``python -m`` does and ends as any Python ends. A command that differs in anything that is settled by
importing, and every command in tests marked ``real_programs``, is started as ever (:mod:`spawning`).

What a fork cannot show: what importing itself does or costs, and differences between processes in the order of sets,
whose seed all forks share. The tests marked ``real_programs`` are there for that.
"""
