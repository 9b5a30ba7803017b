"""The proxy is invisible: a case must look the same sent to an engine directly and through the proxy.

Engines are interchangeable: `make test` uses the simulated one, `make test-engines` a real vLLM.
"""
