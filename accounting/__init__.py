"""From counter reads and request events to joules per request.

The pure part (`events`, `records`, `curve`, `ledger`) does no I/O and has no clock; the rest (`meters`,
`journal`, `store`, `service`) feeds it and keeps what it says. Nothing here knows an HTTP server.
"""
