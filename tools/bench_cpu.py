"""graphc on lavapipe beside sentence-transformers on the same CPU; see tools/bench-cpu."""

import json
import os
import statistics
import subprocess
import sys
import time

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards bake fresh bread in town".split()
# name, sentences, words in each
CASES = [("one sentence of 6 words", 1, 6), ("one of 250 words", 1, 250), ("32 of 120 words", 32, 120)]
RUNS = 7


def texts(count, words):
    """Sentences of the same length that differ."""
    return [" ".join(WORDS[(i * 5 + k) % len(WORDS)] for k in range(words)) for i in range(count)]


def peer(model, lines):
    """Median milliseconds of sentence-transformers, after a first run."""
    batch = max(1, min(32, len(lines)))
    model.encode(lines, batch_size=batch)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        model.encode(lines, batch_size=batch, normalize_embeddings=True)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def graphc(binary, folder, device, batch, seq):
    """Median milliseconds of a forward, and the device's name."""
    # A forward of thousands of rows takes lavapipe many seconds; two of them say enough.
    runs = "7" if batch * seq <= 1024 else "2"
    entry = f"batch={batch},seq={seq}"
    command = [binary, "bench", "--model", folder, "--entry", entry, "--runs", runs, "--json", "--device", device]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)[0]["wall_ms"]["median"]


def main():
    binary, folder, device = sys.argv[1:4]
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(os.cpu_count())
    model = SentenceTransformer(folder, device="cpu")
    print("| what | graphc on lavapipe | sentence-transformers | ratio |")
    print("|---|---|---|---|")
    for name, count, words in CASES:
        lines = texts(count, words)
        # The same rows as the peer, whose batches are padded to their longest text.
        seq = max(len(ids) for ids in model.tokenizer(lines, truncation=True, max_length=model.max_seq_length)["input_ids"])
        theirs = peer(model, lines)
        ours = graphc(binary, folder, device, count, seq)
        print(f"| {name} | {ours:.1f} ms | {theirs:.1f} ms | {ours / theirs:.1f} |", flush=True)


main()
