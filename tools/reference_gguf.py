#!/usr/bin/env python3
"""Writes tests/reference/gguf_blocks.json: what the Python package `gguf` decodes quantised blocks to.

    python3 -m venv VENV && VENV/bin/pip install gguf
    VENV/bin/python tools/reference_gguf.py

Every bit of a block is random but its f16 fields, which are finite. Bytes and the f32 that they mean are base64.
"""

import base64
import importlib.metadata
import json
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "reference" / "gguf_blocks.json"
# Type, blocks, and where its f16 fields stand.
TYPES = [
    ("Q4_0", 4, [0]),
    ("Q4_1", 4, [0, 2]),
    ("Q5_0", 4, [0]),
    ("Q5_1", 4, [0, 2]),
    ("Q8_0", 4, [0]),
    ("Q4_K", 2, [0, 2]),
    ("Q5_K", 2, [0, 2]),
    ("Q6_K", 2, [208]),
]


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def main() -> None:
    random = np.random.default_rng(7)
    types = {}
    for name, count, halves in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in halves:
            values = random.normal(0, 0.05, count).astype("<f2")
            blocks[:, at : at + 2] = values.view(np.uint8).reshape(count, 2)
        values = gguf.quants.dequantize(blocks, kind)
        types[name] = {"bytes": text(blocks), "values": text(values.astype("<f4"))}
    golden = {"made_with": {"gguf": importlib.metadata.version("gguf")}, "types": types}
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
