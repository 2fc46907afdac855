"""Send ten tasks and print their results; this program is not patched."""

from tasks import fetch

results = [fetch.delay(f"http://www.localnet/bytes/{size}") for size in range(1000, 11000, 1000)]
print([result.get(timeout=120) for result in results])
