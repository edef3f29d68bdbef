#!/usr/bin/env python3
"""Writes the goldens that llama.cpp decides: token ids of varied texts and greedy continuations, on its CPU backend.

    python3 -m venv VENV && VENV/bin/pip install cyllama-vulkan==0.2.18 gguf==0.19.0 numpy
    VENV/bin/python tools/reference_llama.py tokens smollm2=FILE.gguf gemma3=FILE.gguf   # tests/reference/tokens_*.json
    VENV/bin/python tools/reference_llama.py greedy smollm2=FILE.gguf gemma3=FILE.gguf   # tests/reference/{smollm2,gemma3}.json
    VENV/bin/python tools/reference_llama.py exact smollm2=FILE.gguf gemma3=FILE.gguf    # tests/reference/{smollm2,gemma3}_f32.json
    VENV/bin/python tools/reference_llama.py itself smollm2=FILE.gguf gemma3=FILE.gguf   # prints it
    VENV/bin/python tools/reference_llama.py perplexity smollm2=FILE.gguf TEXT           # prints it

The two files are what `tools/fetch-model smollm2` and `gemma3-270m` bring. Greedy means temperature 0 without a chat
template; beside each token stands the gap between the two largest logits, so that a test can tell a near-tie from
an error.

Before a product with quantised weights llama.cpp's CPU rounds the activations to 8 bits. With F32 weights it does not:
`exact` is the same program on the same weights, written as F32 into a file of their own first. `forced` are its choices
when it is led along the text of `greedy`, one decision a token whatever came before, and `behind` is by how much the
token of `greedy` falls short of that choice. `itself` is the same program on the same quantised file, which only adds
up in another order or rounds another place: it says how many texts of `greedy` such a change leaves as they are.
`exact` and `itself` want `greedy` to have run, `exact` also 0.5 and 1.1 GB of disk for a while.
"""

import json
import math
import pathlib
import sys
import tempfile

import gguf
import numpy as np
from cyllama.llama import llama_cpp as llama

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "reference"
STEPS = 32
EXACT_STEPS = 16
CONTEXT = 512
# Ways to run the same file, as changes to the parameters of the context or of the model.
OTHERWISE = {
    "as it is": {},
    "prompt token by token": {"n_ubatch": 1},
    "prompt two tokens at a time": {"n_ubatch": 2},
    "weights as in the file, not rearranged": {"use_extra_bufts": False},
    "attention without its flash kernel": {"flash_attn_type": 0},
    "attention without its flash kernel, cache in F32": {"flash_attn_type": 0, "type_k": 0, "type_v": 0},
}

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "Q: What is the largest planet in the solar system?\nA:",
    "Die Hauptstadt von Deutschland ist",
    "1, 2, 3, 4, 5,",
    "Dear Sir or Madam,\n\nI am writing to",
    "The three primary colours are red,",
    "In 1969, Neil Armstrong",
]

TEXTS = [
    "",
    " ",
    "  ",
    "   leading spaces",
    "trailing spaces   ",
    "two  spaces   three    four",
    "\n",
    "\n\n\n",
    "\t\ttabs\tbetween\t",
    " \n \n ",
    "line one\nline two\r\nline three\r",
    "Hello, world!",
    "hello",
    " hello",
    "Hello Hello hello HELLO",
    "The quick brown fox jumps over the lazy dog.",
    "don't can't won't I'm you're they've she'll he'd it's",
    "DON'T CAN'T I'M YOU'RE THEY'VE",
    "1234567890",
    "3.14159 and 2,718,281 and 1e-10",
    "2026-11-21T08:00:00Z",
    "x = (a + b) * c / d - e % f;",
    "a<b>c</b> && d || !e",
    "!!!???...,,,;;;",
    "https://example.org/path?query=1&other=two#part",
    "name@example.org",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n",
    "for i in range(10):\n\tif i % 2 == 0:\n\t\tprint(i)\n",
    "#include <stdio.h>\nint main(void) { return 0; }",
    "SELECT * FROM t WHERE a = 'b' AND c >= 10;",
    "{\"key\": [1, 2, {\"nested\": null}], \"text\": \"\\u00e9\"}",
    "Straße, Äpfel, Öl und Übermut",
    "Où est la bibliothèque ? L'été, c'est là-bas.",
    "¿Dónde está el baño? ¡Mañana!",
    "Привет, как дела?",
    "Καλημέρα κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好，世界。今天天气很好。",
    "こんにちは世界、カタカナとひらがな",
    "안녕하세요 세계",
    "Chào thế giới",
    "Zażółć gęślą jaźń",
    "e\u0301 is not \u00e9",
    "\u00a0non-breaking\u00a0space\u2003em space\u200bzero width",
    "emoji: 😀 👍🏽 👨‍👩‍👧‍👦 🇫🇷 ❤️",
    "😀😀😀",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "½ ¼ ² ³ Ⅻ ٣ 五",
    "\u0000 null and \u0007 bell",
    "\ufffd replacement \ufeff mark",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                                                ",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<start_of_turn>user\nhi<end_of_turn>\n<bos><eos>",
    "▁ a lower one eighth block ▁▁ and <0x41> spelled out",
    "mixed 中文 and English и русский, 123 ４５６",
    "(see §4.2; cf. pp. 10–12) — “quoted” ‘text’ …",
    "\u1100\u1161\u11a8 \u0915\u094d\u0937 \u0e33",
    "A paragraph of plain prose that is a little longer than the others, so that merges across many words are "
    "exercised; it has commas, a semicolon, and ends with a full stop.",
]


def quiet():
    llama.disable_logging()
    llama.ggml_backend_load_all()


class Model(llama.LlamaModel):
    """The context asks its model for `n_vocab`, which the binding's class lacks."""

    @property
    def n_vocab(self):
        return self.get_vocab().n_vocab


def change(params, changes):
    for key, value in changes.items():
        if hasattr(params, key):
            setattr(params, key, value)


def open_model(path, changes=()):
    params = llama.LlamaModelParams()
    params.n_gpu_layers = 0
    change(params, dict(changes))
    return Model(str(path), params)


def open_context(model, size, changes=()):
    params = llama.LlamaContextParams()
    params.n_ctx = size
    params.n_batch = size
    params.n_ubatch = min(size, 512)
    params.offload_kqv = False
    params.op_offload = False
    params.n_threads = 2
    params.n_threads_batch = 2
    change(params, dict(changes))
    return llama.LlamaContext(model, params)


def ids_of(vocab, text, special):
    return list(vocab.tokenize(text, add_special=special, parse_special=special))


def tokens(name, path):
    # The vocabulary does not keep its model alive.
    model = open_model(path)
    vocab = model.get_vocab()
    rows = []
    for text in TEXTS:
        rows.append({
            "text": text,
            "plain": ids_of(vocab, text, False),
            "special": ids_of(vocab, text, True),
        })
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=True) for row in rows)
    file = OUT / f"tokens_{name}.json"
    file.write_text('{"source": "llama.cpp through cyllama-vulkan 0.2.18", "texts": [\n  ' + lines + "\n]}\n")
    print(f"{file}: {len(rows)} texts")


def greedy(name, path):
    model = open_model(path)
    vocab = model.get_vocab()
    rows = []
    for prompt in PROMPTS:
        context = open_context(model, CONTEXT)
        ids = ids_of(vocab, prompt, True)
        batch, position = ids, 0
        out, gaps = [], []
        for _ in range(STEPS):
            context.decode(llama.llama_batch_get_one(batch, position))
            position += len(batch)
            logits = np.asarray(context.get_logits_ith(-1), dtype=np.float64)
            second, first = np.partition(logits, -2)[-2:]
            token = int(np.argmax(logits))
            out.append(token)
            gaps.append(round(float(first - second), 4))
            if vocab.is_eog(token):
                break
            batch = [token]
        text = vocab.detokenize(out, len(out) * 64)
        rows.append({"prompt": prompt, "ids": ids, "tokens": out, "gaps": gaps, "text": text})
        print(f"{name}: {prompt!r} -> {text!r}, least gap {min(gaps)}")
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=True) for row in rows)
    file = OUT / f"{name}.json"
    file.write_text('{"source": "llama.cpp (CPU) through cyllama-vulkan 0.2.18", "prompts": [\n  ' + lines + "\n]}\n")
    print(file)


def dequantise(path, into):
    """The same GGUF with every tensor as F32."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(into, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        kind = field.types[0]
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key == "general.file_type":
            writer.add_uint32(key, 0)
        elif kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, field.contents(), kind, sub_type=field.types[-1])
        else:
            writer.add_key_value(key, field.contents(), kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def walk(model, ids, theirs, follow, changes=()):
    """Choices, their gaps, and how far `theirs` are behind; along `theirs` or along the choices themselves."""
    context = open_context(model, CONTEXT, changes)
    batch, position = ids, 0
    choices, gaps, behind = [], [], []
    for token in theirs:
        context.decode(llama.llama_batch_get_one(batch, position))
        position += len(batch)
        logits = np.asarray(context.get_logits_ith(-1), dtype=np.float64)
        second, first = np.partition(logits, -2)[-2:]
        choices.append(int(np.argmax(logits)))
        gaps.append(round(float(first - second), 4))
        behind.append(round(float(first - logits[token]), 4))
        batch = [token if follow else choices[-1]]
        if model.get_vocab().is_eog(batch[0]):
            break
    return choices, gaps, behind


def exact(name, path):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "f32.gguf"
        dequantise(path, file)
        model = open_model(file)
        vocab = model.get_vocab()
        rows, agreed, asked = [], 0, 0
        for row in json.loads((OUT / f"{name}.json").read_text())["prompts"]:
            ids, theirs = row["ids"], row["tokens"][:EXACT_STEPS]
            tokens, gaps, _ = walk(model, ids, theirs, False)
            forced, _, behind = walk(model, ids, theirs, True)
            agreed += sum(a == b for a, b in zip(forced, theirs))
            asked += len(forced)
            rows.append({
                "prompt": row["prompt"], "ids": ids, "tokens": tokens, "gaps": gaps, "forced": forced, "behind": behind,
                "text": vocab.detokenize(tokens, len(tokens) * 64),
            })
        print(f"{name}: {agreed} of {asked} single decisions are the same with activations in 8 bits")
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=True) for row in rows)
        source = "llama.cpp (CPU) through cyllama-vulkan 0.2.18, weights dequantised to F32"
        (OUT / f"{name}_f32.json").write_text(f'{{"source": "{source}", "prompts": [\n  ' + lines + "\n]}\n")


def itself(name, path):
    rows = json.loads((OUT / f"{name}.json").read_text())["prompts"]
    for what, changes in OTHERWISE.items():
        model = open_model(path, changes)
        texts, agreed, asked = 0, 0, 0
        for row in rows:
            ids, theirs = row["ids"], row["tokens"][:EXACT_STEPS]
            texts += walk(model, ids, theirs, False, changes)[0] == theirs
            forced = walk(model, ids, theirs, True, changes)[0]
            agreed += sum(a == b for a, b in zip(forced, theirs))
            asked += len(forced)
        print(f"{name}, {what}: {texts} of {len(rows)} texts, {agreed} of {asked} single decisions")


def perplexity(path, text):
    model = open_model(path)
    ids = ids_of(model.get_vocab(), pathlib.Path(text).read_text(), True)
    window, total, count = 512, 0.0, 0
    for start in range(0, len(ids) - 1, window):
        part = ids[start:start + window]
        context = open_context(model, window + 8)
        for position, token in enumerate(part[:-1]):
            context.decode(llama.llama_batch_get_one([token], position))
            logits = np.asarray(context.get_logits_ith(-1), dtype=np.float64)
            top = logits.max()
            total += top + math.log(np.exp(logits - top).sum()) - logits[part[position + 1]]
            count += 1
    print(f"{path}: perplexity {math.exp(total / count):.4f} over {count} tokens, windows of {window}")


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("tokens", "greedy", "exact", "itself", "perplexity"):
        sys.exit(__doc__)
    quiet()
    command = sys.argv[1]
    if command == "perplexity":
        perplexity(sys.argv[2].partition("=")[2], sys.argv[3])
        return
    for argument in sys.argv[2:]:
        name, _, path = argument.partition("=")
        {"tokens": tokens, "greedy": greedy, "exact": exact, "itself": itself}[command](name, path)


if __name__ == "__main__":
    main()
