"""Commands of the documents that no test runs, and why. What is gone from there has to go from here."""

TARGETS = "a target of make that "
FLAGS = "--enable-per-request-metrics --enable-request-id-headers --enable-prompt-tokens-details"

NOT_RUN = {
    "make setup": TARGETS + "makes the environment that the tests run in",
    "make test": TARGETS + "runs this test",
    "make test-engines": TARGETS + "installs engines and takes an hour",
    "make format": TARGETS + "changes the sources",
    "make docs": TARGETS + "tests/test_site.py does the work of",
    "make bench": TARGETS + "takes many minutes",
    "make lock": TARGETS + "asks the package registry",
    "make demo": TARGETS + "calls `joulegate demo`, which is run",
    f"vllm serve MODEL {FLAGS}": "needs a GPU; tests/engines has a vLLM on the CPU with these flags",
    "scripts/gpu-check bundle gpu-check.tar": "downloads gigabytes",
    "tar xf gpu-check.tar && gpu-check/scripts/gpu-check run --out .": "needs a GPU and the bundle",
}
