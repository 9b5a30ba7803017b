"""Several processes that relay, and one that keeps the ledger.

The main process is what joulegate is without workers: it accounts, measures, stores, shows and relays. Each
worker listens on the same port and relays, too; what it would say to the accountant it sends to the main
process over a pair of sockets, where it is written down and heard as if it had been said there.

- `messages.py` what is said, both ways; `channel.py` how
- `client.py`   the accountant as a worker's relay knows it
- `asking.py`   a worker asks whether a request may go, where keys are asked for; `entered.py` one that may
- `admitting.py` the main process decides that; `refusing.py` its refusals on their way
- `forward.py`  a worker passes requests that are not for an engine to the main process
- `worker.py`   a worker process
- `peer.py`     a worker as the main process hears it
- `keeper.py`   starts workers, watches them, starts those again that die
"""
