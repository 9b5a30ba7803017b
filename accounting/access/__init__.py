"""Virtual keys: what they are, where they are kept, and what has been spent with each.

The proxy asks them of its clients (`proxy/access/`). Tables are in the store; a copy lies beside the journal,
so that keys work while the database is away.
"""
