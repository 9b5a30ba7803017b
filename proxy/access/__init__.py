"""Who may use the proxy, and how much: keys, limits, budgets in joules.

A request is known by a look into a dictionary, and let in by arithmetic on what is in memory: no SQL, no lock
and nothing to wait for. All of it runs in the event loop's thread.
"""
