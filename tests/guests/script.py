# Work for an unchanged python3: json, re, threading, hashing, and a dictionary of N entries. script.py [N]
import hashlib
import json
import re
import sys
import threading
import zlib

n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000

table = {"key%d" % i: i * i for i in range(n)}
print("dictionary", len(table), sum(table.values()) % 1_000_000_007, "key%d" % (n - 1) in table)
del table

data = {"list": list(range(1000)), "nested": {"pi": 3.141592653589793, "text": "Gr\u00fc\u00dfe", "none": None}}
text = json.dumps(data, sort_keys=True)
print("json", len(text), json.loads(text) == data, hashlib.sha256(text.encode()).hexdigest()[:16])

words = re.findall(r"\b(\w+)ing\b", "sing a song of splitting, merging and flushing, mapping nothing " * 1000)
print("re", len(words), words[:4], re.sub(r"(\d+)", lambda m: str(int(m[1]) * 2), "1 22 333"))

lock, total = threading.Lock(), 0


def work(first):
    global total
    for i in range(first, first + 2000):
        with lock:
            total += i


threads = [threading.Thread(target=work, args=(i * 10,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
event = threading.Event()
threading.Timer(0.01, event.set).start()
print("threads", total, event.wait(10))

packed = zlib.compress(text.encode() * 50)
print("zlib", len(zlib.decompress(packed)) == 50 * len(text), zlib.crc32(packed) == zlib.crc32(packed))
try:
    open("/nowhere/at/all")
except FileNotFoundError as error:
    print("error", error.errno)
print("done", file=sys.stderr)
sys.exit(7)
