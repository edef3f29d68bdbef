#!/usr/bin/env python3
"""Writes tests/reference/smollm2_exact.json: what the weights of SmolLM2 say when nothing but they is rounded.

    python3 -m venv VENV && VENV/bin/pip install gguf==0.19.0 numpy
    VENV/bin/python tools/reference_exact.py FILE.gguf

llama.cpp's CPU rounds activations to 8 bits before each product with quantised weights, which turns near-ties. This
is the plain forward pass in float32 over the dequantised weights, greedy, for the prompts of smollm2.json.
"""

import json
import pathlib
import sys

import numpy as np
from gguf import GGUFReader, dequantize

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "reference"
STEPS, LAYERS, HEADS, KV_HEADS, DIM, THETA, EPS = 16, 30, 9, 3, 64, 100000.0, 1e-5


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rotate(x):
    angles = np.arange(len(x))[:, None] * THETA ** (-np.arange(0, DIM, 2) / DIM)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def logits(weights, ids):
    x = weights["token_embd.weight"][ids]
    count = len(ids)
    future = np.triu(np.full((count, count), -1e30), 1)
    for layer in range(LAYERS):
        w = lambda name: weights[f"blk.{layer}.{name}.weight"]
        h = norm(x, w("attn_norm"))
        q = rotate((h @ w("attn_q").T).reshape(count, HEADS, DIM))
        k = rotate((h @ w("attn_k").T).reshape(count, KV_HEADS, DIM)).repeat(HEADS // KV_HEADS, 1)
        v = (h @ w("attn_v").T).reshape(count, KV_HEADS, DIM).repeat(HEADS // KV_HEADS, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(DIM) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", scores, v).reshape(count, -1) @ w("attn_output").T
        h = norm(x, w("ffn_norm"))
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return norm(x[-1], weights["output_norm.weight"]) @ weights["token_embd.weight"].T


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    reader = GGUFReader(sys.argv[1])
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    rows = []
    for row in json.loads((OUT / "smollm2.json").read_text())["prompts"]:
        ids = list(row["ids"])
        for _ in range(STEPS):
            ids.append(int(np.argmax(logits(weights, np.array(ids)))))
        rows.append({"prompt": row["prompt"], "ids": row["ids"], "tokens": ids[len(row["ids"]):]})
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=True) for row in rows)
    head = '{"source": "tools/reference_exact.py: float32 forward of the dequantised weights, greedy", "prompts": [\n  '
    (OUT / "smollm2_exact.json").write_text(head + lines + "\n]}\n")


if __name__ == "__main__":
    main()
